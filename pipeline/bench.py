"""How fast the model is here."""

from __future__ import annotations

import time

import numpy as np

from pipeline.config import Recipe
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

WARM_ENOUGH_S = 5.0


def seconds_per_item(recipe: Recipe, files: Files, *, device: str, threads: int | None, batch: int) -> float:
    """Seconds an item from one batch of noise after a first one (or from the first, where that took long enough)."""
    segmenter = Segmenter.from_recipe(recipe, files, device=device, threads=threads)
    side = recipe.frame_px
    images = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8))
    for number in (1, batch):
        start = time.perf_counter()
        segmenter.segment(images[:number], [None] * number)
        took_s = time.perf_counter() - start
        if took_s > WARM_ENOUGH_S:
            break
    return took_s / number
