"""Presets: a model as users pick it, with its recipe and what they should know of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from pipeline.config.recipe import Recipe
from pipeline.config.sections import Section, build, bundled_file, bundled_names, from_beside, read_yaml
from pipeline.paths import CONFIGS

DEFAULT_PRESET = "mvanet-lite"
"""Whose weights are in the package."""


class Preset(Section):
    """A model as users pick it: the recipe, and what they should know of its weights."""

    about: str
    licence: str
    commercial: bool = Field(description="False: runs only with --accept-licence")
    size_mb: float
    source: str
    recipe: Recipe


def preset_names() -> list[str]:
    """Names of the bundled presets, sorted."""
    return bundled_names(CONFIGS)


def load_preset(name_or_path: str, changes: Mapping[str, Any] | None = None, renditions: Sequence[str] = ()) -> Preset:
    """A bundled preset by name, or a user's own by the path of its YAML file, with changes to its recipe.

    Other weights than the preset's own drop the preset's pinned hash: it was the hash of another file.

    Args:
        renditions: names (or paths) of further ones.

    Raises:
        ConfigError: no such preset, an unknown key, a value out of range.
    """
    changes = dict(changes or {})
    path = bundled_file(name_or_path, CONFIGS, "preset")
    content = read_yaml(path)
    recipe = dict(content.get("recipe") or {})
    recipe.setdefault("name", path.stem)
    if "weights" in changes and "calibration" not in changes:
        for key in ("calibration", "calibration_sha256", "review_below"):
            recipe.pop(key, None)  # they were of other masks
    for key in ("weights", "refiner_weights", "calibration"):
        if recipe.get(key):
            recipe[key] = from_beside(path, str(recipe[key]))
        if key in changes and f"{key}_sha256" not in changes:
            recipe.pop(f"{key}_sha256", None)
    recipe |= changes
    if renditions:
        recipe["renditions"] = [*(recipe.get("renditions") or ()), *renditions]
    return build(Preset, content | {"recipe": recipe}, str(path.name))
