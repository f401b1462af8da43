"""Load presets: a model by name, with its recipe and what users should know about its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.config.recipe import Recipe, nest
from pipeline.config.rendition import is_colour
from pipeline.config.sections import Section, Share, build, bundled_file, bundled_names, from_beside, read_yaml
from pipeline.errors import ConfigError
from pipeline.paths import CONFIGS

ASKED_OF_RESULT = ("holes", "hole_share", "specks", "box_margin")
"""Settings of a recipe that say what its masks are to be. The second model has them from the first one, as far as the user or
the preset that has a second model sets them; all others belong to one model."""

DEFAULT_PRESET = "mvanet-lite"
"""Its weights are in the package."""


class Measured(Section):
    """Metrics of a model, means over photos with ground truth. ``make evaluate`` checks them."""

    photos: int = Field(gt=0, description="Number of photos, each without a box and cropped to its box.")
    mae: Share = Field(description="Mean absolute error without boxes.")
    dice: Share = Field(description="Dice without boxes.")
    dice_boxed: Share = Field(description="Dice with boxes.")

    def brief(self) -> str:
        """Return the numbers for a line of ``matteline models``."""
        return f"Dice {self.dice:.3f} / {self.dice_boxed:.3f}, MAE {self.mae:.4f}"

    def describe(self) -> str:
        """Return the numbers in words."""
        return f"On {self.photos} photos: MAE {self.mae:.4f}, Dice {self.dice:.3f}; with their boxes Dice {self.dice_boxed:.3f}"


class Preset(Section):
    """A model that users choose by name: its recipe, licence, size and source."""

    about: str = Field(description="What it is and what it is good for: a line of `matteline models`, up to 78 characters.")
    licence: str = Field(description="SPDX identifier of the licence of the weights.")
    commercial: bool = Field(description="Whether the licence allows commercial use. false: runs only with --accept-licence.")
    size_mb: float = Field(description="Size of the weights file in MB.")
    source: str = Field(description="Web address of the model.")
    measured: Measured | None = Field(None, description="How the model did in `make evaluate`; none: not measured.")
    recipe: Recipe = Field(description="See Recipe.")

    def describe(self) -> str:
        """Return what the model is good for and, if it was measured, how it did."""
        return self.about if self.measured is None else f"{self.about}. {self.measured.describe()}"


def preset_names() -> list[str]:
    """Return the names of the bundled presets, sorted."""
    return bundled_names(CONFIGS)


def load_preset(name_or_path: str, changes: Mapping[str, Any] | None = None, renditions: Sequence[str] = ()) -> Preset:
    """Load a bundled preset by name, or a user's own by path, and apply changes to its recipe.

    If the changes name other weights, the preset's pinned hash and calibration are dropped: they belong to its own weights.

    Args:
        name_or_path: Name of a bundled preset, or path of a YAML file.
        changes: Recipe settings to change.
        renditions: Names or paths of renditions to add to the recipe's.

    Raises:
        ConfigError: There is no such preset, a key is unknown, or a value is out of range.
    """
    changes = dict(changes or {})
    path = bundled_file(name_or_path, CONFIGS, "preset")
    content = read_yaml(path)
    if not isinstance(content.get("recipe") or {}, dict):
        raise ConfigError(f"{path.name}: recipe must be a mapping of settings")
    recipe = dict(content.get("recipe") or {})
    recipe.setdefault("name", path.stem.lower())
    if "weights" in changes:
        content.pop("measured", None)
    if "weights" in changes and "calibration" not in changes:
        for key in ("calibration", "calibration_sha256", "review_below"):
            recipe.pop(key, None)  # they belong to other masks
    for key in ("weights", "refiner_weights", "calibration", "video_background"):
        if isinstance(recipe.get(key), str) and recipe[key] and not (key == "video_background" and is_colour(recipe[key])):
            recipe[key] = from_beside(path, recipe[key])
        if key in changes and f"{key}_sha256" not in changes:
            recipe.pop(f"{key}_sha256", None)
    if recipe.get("second") is not None:
        recipe["second"] = _settings_of_second(recipe["second"], path)
    recipe = nest(recipe | changes, "second")
    if recipe.get("second") is not None:
        asked = changes if (content.get("recipe") or {}).get("second") is None else recipe
        inherited = {key: asked[key] for key in ASKED_OF_RESULT if key in asked}
        recipe["second"] = _with_recipe(_settings_of_second(recipe["second"], None), inherited)
    if renditions and isinstance(recipe.get("renditions") or [], list | tuple):
        recipe["renditions"] = [*(recipe.get("renditions") or ()), *renditions]
    return build(Preset, content | {"recipe": recipe}, str(path.name))


def _settings_of_second(second: Any, file: Path | None) -> Any:
    """Return the settings of a second model as a mapping, also if only its preset is named. Wrong types stay as they are.

    Args:
        second: Name or path of its preset, or its settings.
        file: The file that says so; a path in it is relative to it. None: the user does.
    """
    settings = {"preset": second} if isinstance(second, str) else second
    if not isinstance(settings, Mapping):
        return settings
    preset = settings.get("preset")
    if file is not None and isinstance(preset, str) and Path(preset).suffix in {".yaml", ".yml"}:
        return {**settings, "preset": from_beside(file, preset)}
    return settings


def _with_recipe(settings: Any, inherited: Mapping[str, Any]) -> Any:
    """Return the settings of a second model with the recipe of its preset, which the key ``recipe`` changes.

    Args:
        settings: The settings.
        inherited: Settings of the first model's recipe, which those under ``recipe`` override.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("preset"), str):
        return settings
    settings = nest(dict(settings), "recipe")
    changes = settings.get("recipe")
    if not isinstance(changes or {}, Mapping):
        return settings
    try:
        return settings | {"recipe": load_preset(settings["preset"], {**inherited, **(changes or {})}).recipe}
    except ConfigError as error:
        raise ConfigError(f"recipe.second: {error}") from error
