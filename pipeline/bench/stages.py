"""The time of every stage of an item alone, on one core."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from pipeline.bench.timing import time_calls
from pipeline.config.job import Limits, Storage
from pipeline.config.recipe import Recipe
from pipeline.imaging.decode import decode
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import make_frame, place, restore, to_mask
from pipeline.imaging.png import encode_cutout, encode_mask
from pipeline.models.graph_pass import GraphPass
from pipeline.models.graphs.bundled import runs_in_graphs
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files
from pipeline.types import Alpha, Pixels


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds per item by stage, in the order of work: the mean over the photos of each one's median.

    ``around the model`` is the model process's other work: ``frame``, ``restore`` and the signals of the quality score.
    """

    preset: str
    photos: int
    megapixels: float
    """Mean size of the photos."""
    ms: dict[str, float]


def measure_stages(
    recipe: Recipe, uris: Sequence[str], limits: Limits, storage: Storage, folder: Path, for_s: float
) -> StageTimes:
    """Measure ``for_s`` seconds per stage and photo, in a new process bound to one core, with masks that u2netp predicts.

    Written objects go to ``folder``, which should be on a disk.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_bind_to_one_core) as process:
        return process.submit(_measure, recipe, tuple(uris), limits, storage, folder, for_s).result()


def _bind_to_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _measure(recipe: Recipe, uris: Sequence[str], limits: Limits, storage: Storage, folder: Path, for_s: float) -> StageTimes:
    files, masks = Files(storage), Segmenter("u2netp", device="cpu", threads=1)
    times = [_measure_photo(recipe, uri, limits, files, masks, folder / str(number), for_s) for number, uri in enumerate(uris)]
    pixels = fmean(decode(files.read(uri), limits).size / 3 for uri in uris)
    ms = {stage: 1e3 * fmean(one[stage] for one in times) for stage in times[0]}
    return StageTimes(recipe.name, len(uris), pixels / 1e6, ms)


def _measure_photo(
    recipe: Recipe, uri: str, limits: Limits, files: Files, masks: Segmenter, folder: Path, for_s: float
) -> dict[str, float]:
    data = files.read(uri)
    image = decode(data, limits)
    placed, alpha = place(image.shape[:2], None, recipe), _predict_alpha(image, recipe, masks)
    mask = to_mask(restore(alpha, placed, recipe))
    colours = estimate_foreground(image, mask, recipe.foreground)
    objects = {"mask": encode_mask(mask), "cutout": encode_cutout(colours, mask)}
    around = _without_model(recipe, files, torch.from_numpy(alpha)[None].logit(1e-6))
    numbers = itertools.count()  # objects are created only if absent, so every call needs a new name

    def write() -> None:
        number = next(numbers)
        for output, content in objects.items():
            files.create(str(folder / f"{number}.{output}.png"), content)

    stages: dict[str, Callable[[], object]] = {
        "fetch": lambda: files.fetch(uri, max_bytes=limits.max_bytes),
        "decode": lambda: decode(data, limits),
        "frame": lambda: make_frame(image, placed, recipe),
        "restore": lambda: to_mask(restore(alpha, placed, recipe)),
        "around the model": lambda: around.segment([image], [None]),
        "foreground": lambda: estimate_foreground(image, mask, recipe.foreground),
        "encode mask": lambda: encode_mask(mask),
        "encode cutout": lambda: encode_cutout(colours, mask),
        "write": write,
    }
    return {stage: median(time_calls(work, for_s=for_s, max_calls=50)) for stage, work in stages.items()}


def _without_model(recipe: Recipe, files: Files, logits: torch.Tensor) -> Segmenter:
    """Return a segmenter of the recipe whose model returns the same logits at once."""
    if not runs_in_graphs(recipe, "cpu", "auto"):
        recipe = recipe.model_copy(update={"model": "fake"})
    segmenter = Segmenter.from_recipe(recipe, files, device="cpu", threads=1)
    constant = logits.numpy() if isinstance(segmenter.run_pass, GraphPass) else logits
    segmenter.run_pass.model = _ConstantModel(constant)
    return segmenter


class _ConstantModel:
    """A model that returns the same logits at once."""

    device = torch.device("cpu")
    engine = "none"

    def __init__(self, logits: Any) -> None:
        self.logits, self.frame_px = logits, logits.shape[-1]

    def __call__(self, frames: object) -> Any:
        return self.logits


def _predict_alpha(image: Pixels, recipe: Recipe, masks: Segmenter) -> Alpha:
    """Return u2netp's alpha enlarged to the recipe's frame, (S, S)."""
    frame = make_frame(image, place(image.shape[:2], None, masks.recipe), masks.recipe)
    small = torch.as_tensor(masks.model(frame[None])).sigmoid()[0].numpy()
    side = recipe.frame_px
    return restore(small, place((side, side), None, masks.recipe), masks.recipe)
