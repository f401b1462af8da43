"""The recipe: every setting that changes the pixels of a mask or cutout, and the fingerprint that names its output."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.rendition import RENDITIONS_VERSION, Rendition, check_apart, load_rendition
from pipeline.config.sections import Section, Std
from pipeline.errors import ConfigError

RECIPE_VERSION = 1
"""Part of every fingerprint; raised when the same settings start to give other pixels."""

REMOVED_SETTINGS = {"refiner_normalise": "imagenet"}
"""Settings that no longer exist, with their only value: existing outputs keep their fingerprints."""

RENAMED_SETTINGS = {"sharpen": "decide"}
"""Names that a setting has in the fingerprint, where it had another one before."""

ESTIMATOR_SHA256 = "aa1dcd00c371f1b68cb98e44dd6097bef5433e8c7e3c392c960ca4a2f86bc011"
"""The bundled weights of the network that makes the signal ``expected_dice``."""

CGM_SHA256 = "d2a410379fb3b8b9aa2b09081b45c7f6fca3c2e0da196df826993e2c40059d88"
"""The bundled weights of the refiner cgm."""


class Recipe(Section):
    """Everything that changes the pixels of a mask or cutout."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$", description="names the output folder, with the fingerprint")
    model: Literal["mvanet", "onnx", "fake"] = Field(description="which code runs the weights")
    weights: str = Field(default="", description="path or URI: local, s3://, hf://owner/repo/file@revision, https://")
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="what the file must hash to")

    frame_px: int = Field(default=1024, ge=32, le=8192, description="side of the square the model sees")
    frame_resize: Literal["bilinear", "lanczos"] = Field(default="bilinear", description="Pillow filter, image to frame")
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: Std = (0.229, 0.224, 0.225)
    scale: Literal["255", "max"] = Field(default="255", description="pixels are divided by 255, or by the frame's maximum")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="fp32", description="auto: the fastest that keeps alpha, fixed once for all machines of a run"
    )

    activation: Literal["sigmoid", "none"] = Field(default="sigmoid", description="what turns the raw output into alpha")
    input_name: str | None = Field(default=None, description="ONNX input; the only one when absent")
    output_name: str | None = Field(default=None, description="ONNX output; the first one when absent")

    box_margin: float = Field(default=0.05, ge=0, le=1, description="share of the box's sides added around it")
    margin_without_box: bool = Field(default=False, description="no box means the whole image as a box, margin included")
    outside: Literal["clip", "black"] = Field(default="clip", description="a crop past the image is clipped, or padded black")

    alpha_resize: Literal["antialias", "plain"] = Field(default="antialias", description="bilinear, frame to image")
    stretch: bool = Field(default=False, description="upstream's per-image min-max; an empty photo becomes a full mask")
    refiner: Literal["none", "guided", "cgm"] = Field(
        default="cgm", description="alpha where the model is unsure, at the image's own size; none: the model's, enlarged"
    )
    refiner_weights: str = Field(
        default="", description="other weights for cgm than the bundled ones: path or URI, as recipe.weights"
    )
    refiner_weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="what they must hash to")
    foreground: Literal["multilevel", "ben2", "none"] = Field(default="multilevel", description="colours of the cutout's edge")
    outputs: tuple[Literal["mask", "cutout", "trimap"], ...] = Field(
        default=("mask", "cutout"), description="objects an item; in the trimap 128 is where the model was unsure"
    )
    renditions: tuple[Rendition, ...] = Field(
        default=(),
        exclude_if=lambda renditions: not renditions,  # recipes without any keep the fingerprint that they always had
        description="pictures made from the cutout, by name; each a bundled one's name or a mapping",
    )
    flip: bool = Field(
        default=False,
        exclude_if=lambda flip: not flip,  # as for renditions
        description="ask the model about the mirrored frame, too: one signal more, in twice the time",
    )
    estimate: bool = Field(
        default=True,
        exclude_if=lambda estimate: estimate,
        description="a small network looks at photo and mask, too: the signal expected_dice",
    )
    sharpen: float = Field(
        default=1.0,
        ge=1,
        le=16,
        exclude_if=lambda sharpen: sharpen == 1,
        description="factor on the logits far from any contour, where a hesitant model leaves haze",
    )
    calibration: str = Field(
        default="",
        exclude_if=lambda calibration: not calibration,
        description="what makes the quality a probability: path or URI of a file of matteline calibrate; empty: nothing",
    )
    calibration_sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        exclude_if=lambda sha256: sha256 is None,
        description="what it must hash to",
    )
    review_below: float = Field(default=0.85, ge=0, le=1, description="items of lower quality get the status review")

    @model_validator(mode="before")
    @classmethod
    def _bundled_weights_are_pinned(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("refiner", "cgm") == "cgm" and not given.get("refiner_weights"):
            return given | {"refiner_weights_sha256": CGM_SHA256}
        return given

    @field_validator("outputs")
    @classmethod
    def _outputs_are_a_set(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        if not outputs or len(set(outputs)) != len(outputs):
            raise ValueError("name each output once, and at least one")
        return tuple(sorted(outputs))

    @field_validator("renditions", mode="before")
    @classmethod
    def _names_are_looked_up(cls, renditions: Any) -> Any:
        if not isinstance(renditions, list | tuple):
            raise ValueError(f"give a list, as in [amazon-main], not {renditions!r}")  # noqa: TRY004  pydantic reports it
        return [load_rendition(one) if isinstance(one, str) else one for one in renditions]

    @field_validator("renditions")
    @classmethod
    def _renditions_have_names_of_their_own(cls, renditions: tuple[Rendition, ...]) -> tuple[Rendition, ...]:
        check_apart(renditions)
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
        return self

    def fingerprint(self) -> str:
        """64 hex digits over everything that changes pixels: no name, no licence, and weights by hash, not by place.

        Raises:
            ConfigError: the hash of the weights or of a background isn't known yet, or the precision not settled.
        """
        if self.precision == "auto":
            raise ConfigError("recipe.precision is still auto; settle it before taking the recipe's fingerprint")
        if self.model != "fake" and self.weights_sha256 is None:
            raise ConfigError("the recipe has no weights_sha256 yet; fetch the weights before taking its fingerprint")
        if self.refiner_weights and self.refiner_weights_sha256 is None:
            raise ConfigError("the recipe has no refiner_weights_sha256 yet; fetch them before taking its fingerprint")
        if self.calibration and self.calibration_sha256 is None:
            raise ConfigError("the recipe has no calibration_sha256 yet; fetch the calibration before taking its fingerprint")
        facts = self.facts() | REMOVED_SETTINGS | {"version": RECIPE_VERSION}
        facts = {RENAMED_SETTINGS.get(name, name): value for name, value in facts.items()}
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Everything that changes pixels, and the licence of the refiner's weights, as JSON.

        Raises:
            ConfigError: the hash of a background isn't known yet.
        """
        facts = self.model_dump(mode="json", exclude={"name", "weights", "refiner_weights", "calibration"})
        if not self.renditions:
            return facts
        return facts | {"renditions": [one.facts() for one in self.renditions], "renditions_version": RENDITIONS_VERSION}

    def folder(self) -> str:
        """Name of this recipe's folder in an output: ``<name>-<first 12 digits of the fingerprint>``."""
        return f"{self.name}-{self.fingerprint()[:12]}"
