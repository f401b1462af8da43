"""A recipe's refiner, ready to draw."""

from __future__ import annotations

import torch

from pipeline.config import Recipe
from pipeline.models.guided import Guided
from pipeline.models.redraw import Refiner


def load_refiner(recipe: Recipe, device: torch.device) -> Refiner | None:
    """The refiner that the recipe names, for images whose frames lie on this device; None for none."""
    return None if recipe.refiner == "none" else Guided()
