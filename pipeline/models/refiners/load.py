"""Build the refiner that a recipe names, or check its weights before any work."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.config.recipe import Recipe
from pipeline.errors import WeightsError
from pipeline.models.load import DTYPES, check_precision
from pipeline.models.refiners.cgm import ConfidenceGuided, check_cgm, load_cgm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Refiner


def check_refiner(recipe: Recipe, weights: Path | None) -> None:
    """Check a refiner's weights without loading them.

    Raises:
        WeightsError: They are not weights of this refiner.
    """
    if recipe.refiner == "cgm":
        check_cgm(_path(recipe, weights))


def load_refiner(recipe: Recipe, weights: Path | None, device: torch.device) -> Refiner | None:
    """Build the refiner that the recipe names; None for ``none``.

    Args:
        recipe: Its ``refiner`` and ``precision`` are used.
        weights: The file of ``recipe.refiner_weights`` on this machine; None for a refiner without weights.
        device: The device of the frames.

    Raises:
        ConfigError: The device cannot compute in the recipe's precision.
        WeightsError: The file cannot be used.
    """
    if recipe.refiner == "none":
        return None
    if recipe.refiner == "guided":
        return Guided()
    check_precision(recipe.precision, device)
    dtype = DTYPES[recipe.precision]
    return ConfidenceGuided(load_cgm(_path(recipe, weights), device=device, dtype=dtype), dtype)


def _path(recipe: Recipe, weights: Path | None) -> Path:
    if weights is None:
        raise WeightsError(f"the refiner {recipe.refiner} needs a weights file; set recipe.refiner_weights")
    return weights
