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

import torch

from pipeline.bench.timing import time_calls
from pipeline.config.job import Limits, Storage
from pipeline.config.recipe import Recipe
from pipeline.imaging.decode import decode
from pipeline.imaging.encode import encode_cutout, encode_mask
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.frame import make_frame, place, restore, to_mask
from pipeline.models.refiners.refine_tiles import prepare_refinements
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
    around = Segmenter.from_recipe(recipe.model_copy(update={"model": "fake"}), files, device="cpu", threads=1)
    around.model = _ConstantModel(torch.from_numpy(alpha)[None].logit(1e-6))
    numbers = itertools.count()  # objects are created only if absent, so every call needs a new name

    def write() -> None:
        number = next(numbers)
        for output, content in objects.items():
            files.create(str(folder / f"{number}.{output}.png"), content)

    frame, p = make_frame(image, placed, recipe), torch.from_numpy(alpha)

    def refine() -> object:
        (refinement,) = prepare_refinements(around.refiner, [image], [placed], frame[None], p[None])
        return to_mask(restore(alpha, placed, recipe, None if refinement is None else refinement.refine_all))

    stages: dict[str, Callable[[], object]] = {
        "fetch": lambda: files.fetch(uri, max_bytes=limits.max_bytes),
        "decode": lambda: decode(data, limits),
        "frame": lambda: make_frame(image, placed, recipe),
        "restore": lambda: to_mask(restore(alpha, placed, recipe)),
        "restore, refined": refine,
        "around the model": lambda: around.segment([image], [None]),
        "foreground": lambda: estimate_foreground(image, mask, recipe.foreground),
        "encode mask": lambda: encode_mask(mask),
        "encode cutout": lambda: encode_cutout(colours, mask),
        "write": write,
    }
    return {stage: median(time_calls(work, for_s=for_s, max_calls=50)) for stage, work in stages.items()}


class _ConstantModel:
    """A model that returns the same logits at once."""

    device = torch.device("cpu")
    engine = "none"

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.frame_px = logits, logits.shape[-1]

    def __call__(self, frames: object) -> torch.Tensor:
        return self.logits


def _predict_alpha(image: Pixels, recipe: Recipe, masks: Segmenter) -> Alpha:
    """Return u2netp's alpha enlarged to the recipe's frame, (S, S)."""
    frame = make_frame(image, place(image.shape[:2], None, masks.recipe), masks.recipe)
    small = masks.model(frame[None]).sigmoid()[0].numpy()
    side = recipe.frame_px
    return restore(small, place((side, side), None, masks.recipe), masks.recipe)
