"""Estimate the time per item within seconds, for ``matteline plan``. Imports no PyTorch that the model does not need."""

from __future__ import annotations

import time

from pipeline.bench.photos import noise
from pipeline.config.recipe import Recipe
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

WARM_ENOUGH_S = 5.0
"""Seconds from which the first image alone is a good estimate."""


def seconds_per_item(
    recipe: Recipe,
    files: Files,
    *,
    device: str,
    threads: int | None,
    batch: int,
    engine: str = "auto",
    second_share: float = 1.0,
) -> float:
    """Estimate the seconds per item from one batch of noise through ``Segmenter.segment``, after one image alone.

    The first image is the estimate if it took more than ``WARM_ENOUGH_S``. A second model is timed alone, and counts for
    ``second_share`` of the items.
    """
    if recipe.second is not None:
        models = recipe.model_copy(update={"second": None}), recipe.second.recipe
        first_s, second_s = (
            seconds_per_item(one, files, device=device, threads=threads, batch=batch, engine=engine) for one in models
        )
        return first_s + second_share * second_s
    segmenter = Segmenter.from_recipe(recipe, files, device=device, threads=threads, engine=engine)
    images = list(noise(batch, recipe.frame_px, recipe.frame_px))
    for number in (1, batch):
        start = time.perf_counter()
        segmenter.segment(images[:number], [None] * number)
        took_s = time.perf_counter() - start
        if took_s > WARM_ENOUGH_S:
            break
    return took_s / number
