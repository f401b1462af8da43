"""Define the recipe: the settings that change results, and the fingerprint of those that need the model again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.detector import UNHASHED as DETECTOR_UNHASHED
from pipeline.config.detector import Detector, asks_for_nothing
from pipeline.config.rendition import Rendition, check_unique_names, is_colour, load_rendition, parse_background
from pipeline.config.second import Second
from pipeline.config.sections import Section, Std
from pipeline.config.view import View, parse_view
from pipeline.errors import ConfigError

RECIPE_VERSION = 2
"""Part of every fingerprint. Raise it when the same settings give other pixels."""

DERIVED = {"outputs", "renditions", "review_below"}
"""Settings whose effect is computed from finished items, without the model. They are not part of the fingerprint."""

UNHASHED = {"name", "weights", "refiner_weights", "calibration"}
"""Settings that do not change results: a name, and the places of files that are pinned by hash."""

ESTIMATOR_SHA256 = "2cbb4d2171478dd5ba064146b9118324d8004e61231b0ddfcd15aa8a3adf9df9"
"""SHA-256 of the bundled weights of the estimator, which predicts the signal ``expected_dice``."""

CGM_SHA256 = "d2a410379fb3b8b9aa2b09081b45c7f6fca3c2e0da196df826993e2c40059d88"
"""SHA-256 of the bundled weights of the refiner cgm."""


REVIEW_BELOW = 0.85
"""``review_below`` without a threshold of a calibration."""


class Recipe(Section):
    """Every setting that changes what a run writes for an item."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$", description="Name of the recipe, in the index and in reports.")
    model: Literal["mvanet", "onnx", "fake"] = Field(description="Code that runs the weights. fake is for tests.")
    weights: str = Field(default="", description="Path, s3://, hf://owner/repo/file@revision or https://.")
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Expected SHA-256 of the weights.")

    frame_px: int = Field(default=1024, ge=32, le=8192, description="Side of the model's square input in pixels.")
    frame_resize: Literal["bilinear", "lanczos"] = Field(default="bilinear", description="Pillow filter, image to frame.")
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="Mean of red, green and blue that is subtracted."
    )
    std: Std = Field(default=(0.229, 0.224, 0.225), description="Divisors of red, green and blue, after mean.")
    scale: Literal["255", "max"] = Field(default="255", description="Divisor of the pixels: 255, or the frame's maximum.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="fp32", description="auto: fp16 on GPUs for networks whose alpha hardly changes, else fp32; fixed for the run."
    )

    activation: Literal["sigmoid", "none"] = Field(default="sigmoid", description="Function from the raw output to alpha.")
    input_name: str | None = Field(default=None, description="ONNX input. Default: the only one.")
    output_name: str | None = Field(default=None, description="ONNX output. Default: the first one.")

    box_margin: float = Field(default=0.05, ge=0, le=1, description="Margin around a box, as a share of its sides.")
    margin_without_box: bool = Field(
        default=False, description="Without a box, use the complete image as the box, with its margin."
    )
    outside: Literal["clip", "black"] = Field(
        default="clip", description="Where a crop exceeds the image: clip the crop, or fill with black."
    )

    alpha_resize: Literal["antialias", "plain"] = Field(
        default="antialias", description="Bilinear filter from frame to image; antialias: where it shrinks."
    )
    stretch: bool = Field(
        default=False, description="Stretch alpha to [0, 1] per image, as upstream; an empty photo then gets a full mask."
    )
    refiner: Literal["none", "guided", "cgm"] = Field(
        default="cgm", description="Computes alpha in the unknown region at the image's size. none: enlarge the model's."
    )
    refiner_weights: str = Field(default="", description="Weights of cgm: path or URI. Default: the bundled ones.")
    refiner_weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Their expected SHA-256.")
    foreground: Literal["multilevel", "ben2", "none"] = Field(
        default="multilevel", description="Method that removes the background from the edge's colours. ben2: as upstream."
    )
    outputs: tuple[Literal["mask", "cutout", "trimap"], ...] = Field(
        default=("mask", "cutout"), description="Objects per item. In a trimap, 128 is the unknown region."
    )
    renditions: tuple[Rendition, ...] = Field(
        default=(),
        description="Further files per item: names of bundled renditions, paths, or mappings (see rendition).",
    )
    views: tuple[str, ...] = Field(
        default=(),
        description="Further views of each frame, averaged with it: flip, scale:0.75, flip+scale:0.75. Each costs a pass.",
    )
    estimate: bool = Field(
        default=True,
        description="Predict Dice from photo and mask with a small network: the signal expected_dice.",
    )
    sharpen: float = Field(
        default=1.0,
        ge=1,
        le=16,
        description="Factor on logits far from contours. Above 1, removes haze in areas where the model is unsure.",
    )
    holes: Literal["keep", "fill"] = Field(
        default="keep", description="What happens to small holes of the mask; `keep` leaves those of rings and handles open."
    )
    hole_share: float = Field(
        default=0.02, gt=0, le=1, description="Largest hole that `holes: fill` fills, as a share of the object's area."
    )
    specks: float = Field(
        default=0, ge=0, le=0.5, description="Detached parts below this share of the largest part are removed; 0 keeps all."
    )
    detector: Detector | None = Field(
        default=None,
        description="Finds objects by name: the name of a bundled detector, or a mapping (see detector). "
        "Default: none, unless names are given.",
    )
    second: Second | None = Field(
        default=None,
        description="A second model for items of low quality: the name of a preset, or a mapping (see second). Default: none.",
    )
    every: int = Field(
        default=1,
        ge=1,
        le=30,
        description="In a video, the model sees every so many frames, and the masks between are carried by optical flow.",
    )
    steady: bool = Field(
        default=True,
        description="Carry the object and its mask from frame to frame of a video; false: the model sees each frame alone.",
    )
    videos: tuple[Literal["webm", "mov", "mp4", "png", "mask"], ...] = Field(
        default=("webm",),
        description="Files per video: webm and mov with transparency, mp4 over a background, png (a ZIP file), mask (grey).",
    )
    video_background: str = Field(
        default="#ffffff", description="What is behind the object in the mp4 of a video: a colour, or path or URI of a picture."
    )
    video_background_sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Expected SHA-256 of that picture."
    )
    calibration: str = Field(
        default="",
        description="File of `matteline calibrate` that turns the quality into a probability: path or URI.",
    )
    calibration_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="Expected SHA-256 of the calibration.",
    )
    review_below: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Items of lower quality get the status review. Default: the calibration's threshold; 0.85 without one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _flip_is_a_view(cls, given: Any) -> Any:
        if isinstance(given, dict) and "flip" in given:
            raise ValueError("flip is a view now; write views: [flip], which also averages the two results")
        return given

    @model_validator(mode="before")
    @classmethod
    def _bundled_weights_are_pinned(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("refiner", "cgm") == "cgm" and not given.get("refiner_weights"):
            return given | {"refiner_weights_sha256": CGM_SHA256}
        return given

    @model_validator(mode="before")
    @classmethod
    def _threshold_without_a_calibration_is_known(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("calibration") and given.get("review_below") is None:
            return given | {"review_below": REVIEW_BELOW}
        return given

    @model_validator(mode="before")
    @classmethod
    def _keys_of_sections_are_nested(cls, given: Any) -> Any:
        given = nest(given, "detector") if isinstance(given, dict) else given
        return given | {"detector": None} if isinstance(given, dict) and asks_for_nothing(given.get("detector")) else given

    @field_validator("outputs", "videos", mode="before")
    @classmethod
    def _one_output_is_a_list_too(cls, outputs: Any) -> Any:
        return tuple(name.strip() for name in outputs.split(",")) if isinstance(outputs, str) else outputs

    @field_validator("outputs")
    @classmethod
    def _outputs_are_a_set(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        if not outputs or len(set(outputs)) != len(outputs):
            raise ValueError("name at least one output, and each only once")
        if not {"mask", "cutout"} & set(outputs):
            raise ValueError("name mask or cutout, because trimaps and renditions are made from them")
        return tuple(sorted(outputs))

    @field_validator("videos")
    @classmethod
    def _videos_are_a_set(cls, videos: tuple[str, ...]) -> tuple[str, ...]:
        if not videos or len(set(videos)) != len(videos):
            raise ValueError("name at least one file per video, and each only once")
        return tuple(sorted(videos))

    @field_validator("video_background")
    @classmethod
    def _colours_are_valid(cls, background: str) -> str:
        try:
            return parse_background(background)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_validator("views", mode="before")
    @classmethod
    def _one_view_is_a_list_too(cls, views: Any) -> Any:
        return tuple(name for name in views.split(",") if name.strip()) if isinstance(views, str) else views

    @field_validator("views")
    @classmethod
    def _views_are_a_set(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        named = [str(parse_view(one)) for one in views]
        if len(set(named)) != len(named):
            raise ValueError("name each view only once")
        return tuple(sorted(named))

    @field_validator("renditions", mode="before")
    @classmethod
    def _names_are_looked_up(cls, renditions: Any) -> Any:
        if not isinstance(renditions, list | tuple):
            raise ValueError(f"must be a list such as [amazon-main], not {renditions!r}")  # noqa: TRY004  pydantic reports it
        return [load_rendition(one) if isinstance(one, str) else one for one in renditions]

    @field_validator("renditions")
    @classmethod
    def _renditions_have_names_of_their_own(cls, renditions: tuple[Rendition, ...]) -> tuple[Rendition, ...]:
        check_unique_names(renditions)
        return tuple(sorted(renditions, key=lambda one: one.name))

    @model_validator(mode="after")
    def _is_coherent(self) -> Recipe:
        if self.model != "fake" and not self.weights:
            raise ValueError("this model needs weights: a path or a URI")
        if self.model == "mvanet" and self.frame_px % 128:
            raise ValueError(f"frame_px must be a multiple of 128 for mvanet, not {self.frame_px}")
        if self.model == "onnx" and self.precision not in {"auto", "fp32"}:
            raise ValueError("an ONNX file carries its own precision; leave recipe.precision at fp32")
        if self.refiner != "cgm" and (self.refiner_weights or self.refiner_weights_sha256):
            raise ValueError(f"refiner={self.refiner} has no weights; remove refiner_weights and refiner_weights_sha256")
        if self.video_background_sha256 is not None and self.video_picture is None:
            raise ValueError("video_background_sha256 needs a video_background that is a picture")
        if not self.steady and self.every > 1:
            raise ValueError("steady=false carries no masks, which every > 1 needs; remove one of the two")
        if self.second is not None and (problem := self.second.problem(self)):
            raise ValueError(f"second: {problem}")
        return self

    @property
    def has_open_precision(self) -> bool:
        """True if the precision of the model, the detector or the second model depends on GPUs."""
        sections = (self, self.detector, None if self.second is None else self.second.recipe)
        return any(one is not None and one.precision == "auto" for one in sections)

    @property
    def filled_share(self) -> float:
        """Largest hole that is filled, as a share of the object's area; 0 for none."""
        return self.hole_share if self.holes == "fill" else 0.0

    @property
    def cleans(self) -> bool:
        """True if holes are filled or specks are removed."""
        return bool(self.filled_share or self.specks)

    @property
    def video_picture(self) -> str | None:
        """Path or URI of the picture behind the object in the mp4 of a video; None for a colour."""
        return None if is_colour(self.video_background) else self.video_background

    def without_files(self) -> Recipe:
        """Return the recipe without what is made of a mask: renditions, and what is behind videos. The model needs neither."""
        default = Recipe.model_fields["video_background"].default
        nothing = {"renditions": (), "video_background": default, "video_background_sha256": None}
        return self.model_copy(update=nothing)

    @property
    def parsed_views(self) -> tuple[View, ...]:
        """The views besides the frame itself."""
        return tuple(parse_view(one) for one in self.views)

    def fingerprint(self) -> str:
        """Return a hash of everything that changes masks, cutouts or scores, 64 hex digits. Weights count by hash, not by path.

        Raises:
            ConfigError: A hash is not known yet, or the precision is still ``auto``.
        """
        self._check_pinned()
        return fingerprint_of(self.facts())

    def _check_pinned(self) -> None:
        if self.precision == "auto":
            raise ConfigError("recipe.precision is still auto; resolve the recipe before taking its fingerprint")
        if self.model != "fake" and self.weights_sha256 is None:
            raise ConfigError("the recipe has no weights_sha256 yet; resolve the recipe before taking its fingerprint")
        if self.refiner_weights and self.refiner_weights_sha256 is None:
            raise ConfigError("the recipe has no refiner_weights_sha256 yet; resolve the recipe before taking its fingerprint")
        if self.detector is not None and (self.detector.weights_sha256 is None or self.detector.precision == "auto"):
            raise ConfigError("the recipe's detector is not pinned yet; resolve the recipe before taking its fingerprint")
        if self.calibration and self.calibration_sha256 is None:
            raise ConfigError("the recipe has no calibration_sha256 yet; resolve the recipe before taking its fingerprint")
        if self.video_picture and self.video_background_sha256 is None:
            raise ConfigError("the recipe has no video_background_sha256 yet; resolve the recipe before taking its fingerprint")
        if self.second is not None:
            self.second.recipe._check_pinned()

    def facts(self) -> dict[str, Any]:
        """Return everything that changes masks, cutouts or scores, as JSON.

        Without a detector or a second model, there is no key for it. The settings of videos and ``specks`` have none with their
        defaults, so that fingerprints are those of recipes without such settings. A picture counts by hash, not by path, and
        what is behind the object only for MP4.
        """
        excluded: dict[str, Any] = dict.fromkeys(UNHASHED | DERIVED, True)
        excluded["detector"] = DETECTOR_UNHASHED if self.detector is not None else True
        excluded["second"] = True
        for name in ("specks", "every", "steady", "videos", "video_background", "video_background_sha256"):
            if getattr(self, name) == Recipe.model_fields[name].default:
                excluded[name] = True
        if self.video_picture or "mp4" not in self.videos:
            excluded["video_background"] = True
        if "mp4" not in self.videos:  # nothing else shows what is behind the object
            excluded["video_background_sha256"] = True
        second = {} if self.second is None else {"second": self.second.facts()}
        return self.model_dump(mode="json", exclude=excluded) | second

    def label(self) -> str:
        """Return the name and the first 12 digits of the fingerprint: ``mvanet-lite-bf428fe462b9``."""
        return f"{self.name}-{self.fingerprint()[:12]}"


Second.model_rebuild(_types_namespace={"Recipe": Recipe})
Recipe.model_rebuild()


def fingerprint_of(facts: Mapping[str, Any]) -> str:
    """Return the fingerprint of a recipe with these ``facts``, as this version of the program makes it."""
    text = json.dumps({**facts, "version": RECIPE_VERSION}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def nest(given: dict[str, Any], section: str) -> dict[str, Any]:
    """Move keys such as ``detector.threshold`` into the mapping of their section, which may be the name of a preset."""
    prefix = f"{section}."
    inner = {key.removeprefix(prefix): value for key, value in given.items() if str(key).startswith(prefix)}
    if not inner:
        return given
    whole = given.get(section)
    whole = {"preset": whole} if isinstance(whole, str) else dict(whole or {})
    return {key: value for key, value in given.items() if not str(key).startswith(prefix)} | {section: whole | inner}
