"""Define the settings of a detector, which finds the box of an object by its name, and load bundled detectors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.common_names import class_of
from pipeline.config.sections import Section, build, bundled_file, bundled_names, from_beside, read_yaml
from pipeline.errors import ConfigError, PromptError
from pipeline.paths import DETECTORS

DEFAULT_DETECTOR = "grounding-dino-tiny"
"""Used if names are given and no detector is: it takes any name."""

BUNDLED_DETECTOR = "nanodet"
"""Used instead if all names are among the 80 that it knows: it needs no download."""

AUTO = "auto"
"""The name that asks for the salient object, without a detector."""

MAX_NAMES, MAX_CHARS = 100, 200
"""Names of one item, and characters of a name, at most."""

UNHASHED = {"preset", "weights"}
"""Settings of a detector that do not change results."""


class Detector(Section):
    """Settings of the detector that finds the box of an object by its name."""

    preset: str = Field(
        default="",
        description="Name of a bundled detector, or a .yaml file. "
        f"Default: {BUNDLED_DETECTOR} if it knows all names, else {DEFAULT_DETECTOR}.",
    )
    model: Literal["grounding-dino", "owlv2", "nanodet"] = Field(description="Network. Default: the preset's.")
    weights: str = Field(
        min_length=1,
        description="Folder of the hub's layout: path, s3://… or hf://owner/repo@revision, or an ONNX file (nanodet).",
    )
    weights_sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="Expected hash of the file or folder (configs/README.md says how)."
    )
    label: tuple[str, ...] = Field(default=(), description="Names for items that have neither a label nor a box of their own.")
    threshold: float = Field(gt=0, lt=1, description="Lowest score of a box. Default: the preset's.")
    many: Literal["best", "union", "each"] = Field(
        default="best",
        description="Several boxes: best takes that of the highest score, union that around all; each is for matteline detect.",
    )
    max_boxes: int = Field(default=20, ge=1, le=1000, description="Boxes per item, at most; those of the highest scores.")
    missing: Literal["fail", "salient"] = Field(
        default="fail", description="Nothing found: the item fails with the code prompt, or its salient object is cut out."
    )
    precision: Literal["auto", "fp32", "fp16"] = Field(
        default="auto", description="auto: fp16 on GPUs, else fp32; fixed for the run."
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_is_looked_up(cls, given: Any) -> Any:
        given = {"preset": given} if isinstance(given, str) else given
        if not isinstance(given, Mapping) or "model" in given:
            return given
        path = bundled_file(str(given.get("preset") or _default_for(given)), DETECTORS, "detector")
        content = dict(_settings_in(read_yaml(path), path.name))
        if isinstance(content.get("weights"), str):
            content["weights"] = from_beside(path, content["weights"])
        if "weights" in given:
            content.pop("weights_sha256", None)  # it belongs to the preset's own
        return content | dict(given) | {"preset": path.stem}

    @field_validator("label", mode="before")
    @classmethod
    def _names_are_clean(cls, given: Any) -> Any:
        try:
            return parse_names(given) or ()
        except PromptError as error:
            raise ValueError(str(error)) from None


class DetectorPreset(Section):
    """A detector that users choose by name: its settings, licence, size and source."""

    about: str = Field(description="One line for `matteline models`.")
    licence: str = Field(description="SPDX identifier of the licence of the weights.")
    size_mb: float = Field(description="Size of the weights file in MB.")
    source: str = Field(description="Web address of the model.")
    detector: Detector = Field(description="See Detector.")


def detector_names() -> list[str]:
    """Return the names of the bundled detectors, sorted."""
    return bundled_names(DETECTORS)


def load_detector_preset(name: str) -> DetectorPreset:
    """Load a bundled detector by name, or a user's own by path.

    Raises:
        ConfigError: There is none of that name, a key is unknown, or a value is out of range.
    """
    path = bundled_file(name, DETECTORS, "detector")
    return build(DetectorPreset, read_yaml(path) | {"detector": {"preset": name}}, path.name)


def default_detector(names: Sequence[str]) -> str:
    """Return the bundled detector that finds these names if none is configured."""
    return BUNDLED_DETECTOR if names and all(class_of(name) is not None for name in names) else DEFAULT_DETECTOR


def detector_with(changes: Mapping[str, Any]) -> Detector:
    """Return the detector of some settings; without ``preset`` or ``model``, the default one for ``label``.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.
    """
    return build(Detector, changes, "detector")


def eases(before: Mapping[str, Any], now: Mapping[str, Any], changed: Sequence[str]) -> bool:
    """Return whether settings of a detector let fewer items fail, and nothing else: a lower threshold, ``missing: salient``.

    Args:
        before: The settings, as JSON.
        now: The settings, as JSON.
        changed: Those that differ.

    Raises:
        KeyError: A setting is missing in ``before``.
        TypeError: A threshold is no number.
    """
    if not set(changed) <= {"threshold", "missing"} or ("missing" in changed and now["missing"] != "salient"):
        return False
    return bool(now["threshold"] <= before["threshold"])


def _default_for(given: Mapping[str, Any]) -> str:
    if "weights" in given:  # a folder, as documented for GroundingDINO
        return DEFAULT_DETECTOR
    try:
        return default_detector(parse_names(given.get("label")) or ())
    except PromptError:  # the field says so
        return DEFAULT_DETECTOR


def _settings_in(content: Mapping[str, Any], file: str) -> Mapping[str, Any]:
    settings = content.get("detector")
    if not isinstance(settings, Mapping) or "model" not in settings:
        raise ConfigError(f"{file}: detector must be a mapping with model, weights and threshold")
    return settings


def parse_names(given: Any) -> tuple[str, ...] | None:
    """Return the names of objects: without surplus spaces, each once. None if there are none; () for ``auto``.

    Args:
        given: A name; a list of names; or None, NaN or an empty text for none.

    Raises:
        PromptError: It is a number, or has too many or too long names.
    """
    several = list(given) if isinstance(given, list | tuple) else [given]
    names: dict[str, None] = {}
    for one in several:
        if one is None or one != one:  # noqa: PLR0124  (NaN, as pandas writes an empty cell)
            continue
        if not isinstance(one, str):
            raise PromptError(f"label {one!r} is not a name; give text such as 'potted plant'")
        name = " ".join(one.split())
        if len(name) > MAX_CHARS:
            raise PromptError(f"the label {name[:40]!r}… has {len(name)} characters; a name may have {MAX_CHARS}")
        if name:
            names[name] = None
    if len(names) > MAX_NAMES:
        raise PromptError(f"there are {len(names)} labels; an item may have {MAX_NAMES}")
    if not names:
        return None
    return tuple(name for name in names if name.lower() != AUTO)


def label_of(given: Any, option: str) -> list[str] | None:
    """Return the value of ``recipe.detector.label`` for an option; None if it was not given.

    Args:
        given: As for ``parse_names``. ``auto`` takes the place of names in other settings.
        option: Named in the error.

    Raises:
        ConfigError: The names cannot be used.
    """
    try:
        names = parse_names(given)
    except PromptError as error:
        raise ConfigError(f"{option}: {error}") from None
    return None if names is None else list(names) or [AUTO]


def asks_for_nothing(detector: Any) -> bool:
    """Return whether the settings of a detector are only the label ``auto``, for which none is needed."""
    if not isinstance(detector, Mapping) or set(detector) != {"label"}:
        return False
    try:
        return parse_names(detector["label"]) == ()
    except PromptError:  # the field says so
        return False


def split_names(given: Any) -> Any:
    """Return a list of names that is written as text, as a list: ``["cup", "plant"]`` or ``cup; plant``."""
    if not isinstance(given, str):
        return given
    if given.lstrip().startswith("["):
        try:
            parsed = json.loads(given)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, list):
            return parsed
    return given.split(";")
