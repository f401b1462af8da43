"""Fetch what a recipe names and pin it by hash."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pipeline.config.presets import Preset
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.refiners.cgm import BUNDLED
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights


def check_licence(preset: Preset, accepted: bool) -> None:
    """Refuse weights that may not be used commercially unless their licence was accepted.

    Raises:
        ConfigError: it wasn't.
    """
    if not (preset.commercial or accepted):
        raise ConfigError(
            f"the weights of {preset.recipe.name} are under {preset.licence}, which doesn't allow free commercial use; "
            "read it and pass --accept-licence (in Python: accept_licence=True)"
        )


class Pinned(NamedTuple):
    """A recipe that knows the hashes of its files, and where they lie on this machine; None for what it has none of."""

    recipe: Recipe
    weights: Path | None
    refiner: Path | None
    calibration: Path | None


def pin_recipe(recipe: Recipe, files: Files) -> Pinned:
    """Fetch all files that a recipe names.

    Raises:
        WeightsError: one can't be had, or doesn't match its pinned hash.
    """
    named = {
        "weights": "" if recipe.model == "fake" else recipe.weights,
        "refiner_weights": recipe.refiner_weights or (str(BUNDLED) if recipe.refiner == "cgm" else ""),
        "calibration": recipe.calibration,
    }
    paths: dict[str, Path | None] = {}
    hashes = {}
    for setting, uri in named.items():
        paths[setting] = None
        if uri:
            paths[setting], hashes[f"{setting}_sha256"] = _fetched(setting, uri, getattr(recipe, f"{setting}_sha256"), files)
    return Pinned(recipe.model_copy(update=hashes), *paths.values())


def _fetched(setting: str, uri: str, sha256: str | None, files: Files) -> tuple[Path, str]:
    try:
        return fetch_weights(uri, sha256, files)
    except WeightsError as error:  # it names the settings of the model's
        raise WeightsError(str(error).replace("recipe.weights", f"recipe.{setting}")) from error
