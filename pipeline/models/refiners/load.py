"""A recipe's refiner, ready to draw; and what stands in its way, found before any work."""

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
    """Refuse a refiner's weights without loading them.

    Raises:
        WeightsError: they aren't this refiner's.
    """
    if recipe.refiner == "cgm":
        check_cgm(_path(recipe, weights))


def load_refiner(recipe: Recipe, weights: Path | None, device: torch.device) -> Refiner | None:
    """The refiner that the recipe names, for images whose frames lie on this device; None for none.

    Args:
        weights: the file that ``recipe.refiner_weights`` names, on this machine; None for a refiner without.

    Raises:
        ConfigError: the device can't compute in the recipe's precision.
        WeightsError: the file can't be used.
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
