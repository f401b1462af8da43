"""A recipe's refiner, ready to draw; and what stands in its way, found before any work."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.load import DTYPES, check_precision
from pipeline.models.refiners.cgm import ConfidenceGuided, check_cgm, load_cgm
from pipeline.models.refiners.closed_form import ClosedForm
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Refiner
from pipeline.models.refiners.vitmatte import VitMatte
from pipeline.models.refiners.vitmatte_weights import check_vitmatte, load_vitmatte

EXTRAS = {"closed_form": ("pymatting", "closed-form"), "vitmatte": ("transformers", "vitmatte")}
"""The library that a refiner needs besides, and the extra that installs it."""


def check_extra(recipe: Recipe) -> None:
    """Refuse a refiner whose library isn't here; nothing is imported.

    Raises:
        ConfigError: saying how to install it.
    """
    library, extra = EXTRAS.get(recipe.refiner, ("", ""))
    if library and importlib.util.find_spec(library) is None:
        raise ConfigError(
            f"recipe.refiner={recipe.refiner} needs {library}, which isn't installed: pip install 'matteline[{extra}]'"
        )


def check_refiner(recipe: Recipe, weights: Path | None) -> None:
    """Refuse a refiner's weights without loading them.

    Raises:
        WeightsError: they aren't this refiner's.
    """
    if recipe.refiner == "vitmatte":
        check_vitmatte(_path(recipe, weights))
    elif recipe.refiner == "cgm":
        check_cgm(_path(recipe, weights))


def load_refiner(recipe: Recipe, weights: Path | None, device: torch.device) -> Refiner | None:
    """The refiner that the recipe names, for images whose frames lie on this device; None for none.

    Args:
        weights: the file that ``recipe.refiner_weights`` names, on this machine; None for a refiner without.

    Raises:
        ConfigError: its library isn't installed, or the device can't compute in the recipe's precision.
        WeightsError: the file can't be used.
    """
    check_extra(recipe)
    if recipe.refiner == "closed_form":
        return ClosedForm()
    if recipe.refiner == "guided":
        return Guided()
    if recipe.refiner == "none":
        return None
    check_precision(recipe.precision, device)
    path, dtype = _path(recipe, weights), DTYPES[recipe.precision]
    if recipe.refiner == "cgm":
        return ConfidenceGuided(load_cgm(path, device=device, dtype=dtype), dtype)
    return VitMatte(load_vitmatte(path, device=device, dtype=dtype), recipe.refiner_normalise, device, dtype)


def _path(recipe: Recipe, weights: Path | None) -> Path:
    if weights is None:
        raise WeightsError(f"the refiner {recipe.refiner} needs a weights file; set recipe.refiner_weights")
    return weights
