"""Clean a model's map as the recipe asks for, before anything is made from it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.config.recipe import Recipe
from pipeline.imaging.holes import fill_holes
from pipeline.imaging.specks import remove_specks


def clean_map(logits: npt.NDArray[np.float32], recipe: Recipe) -> npt.NDArray[np.float32]:
    """Remove specks of a map (S, S), then fill its holes. The same array if there is nothing to do."""
    return fill_holes(remove_specks(logits, recipe.specks), recipe.filled_share)
