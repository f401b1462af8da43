"""Every stage of an item's way alone, on one core: what the model's process and those beside it have to do."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.bench.clock import seconds
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
class Stages:
    """Milliseconds an item by stage, in the order of work: the mean over the photos of each one's median.

    ``around the model`` is what the model's process does besides: ``frame``, ``restore`` and the signals of the quality score.
    """

    preset: str
    photos: int
    megapixels: float
    """Of a photo, on average."""
    ms: dict[str, float]


def stages_alone(recipe: Recipe, uris: Sequence[str], limits: Limits, storage: Storage, folder: Path, for_s: float) -> Stages:
    """Measured in a process of its own that is bound to one core, on masks that u2netp makes of the photos.

    Args:
        uris: the photos.
        folder: on a disk, where objects are written to.
        for_s: how long each stage is repeated on a photo.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_on_one_core) as alone:
        return alone.submit(_measure, recipe, tuple(uris), limits, storage, folder, for_s).result()


def _on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _measure(recipe: Recipe, uris: Sequence[str], limits: Limits, storage: Storage, folder: Path, for_s: float) -> Stages:
    files, masks = Files(storage), Segmenter("u2netp", device="cpu", threads=1)
    found = [_one(recipe, uri, limits, files, masks, folder / str(number), for_s) for number, uri in enumerate(uris)]
    pixels = [decode(files.read(uri), limits).size / 3 for uri in uris]
    ms = {stage: 1e3 * float(np.mean([times[stage] for times in found])) for stage in found[0]}
    return Stages(recipe.name, len(uris), float(np.mean(pixels)) / 1e6, ms)


def _one(
    recipe: Recipe, uri: str, limits: Limits, files: Files, masks: Segmenter, folder: Path, for_s: float
) -> dict[str, float]:
    data = files.read(uri)
    image = decode(data, limits)
    whole, alpha = place(image.shape[:2], None, recipe), _alpha(image, recipe, masks)
    mask = to_mask(restore(alpha, whole, recipe))
    colours = estimate_foreground(image, mask, recipe.foreground)
    objects = {"mask": encode_mask(mask), "cutout": encode_cutout(colours, mask)}
    around = Segmenter.from_recipe(recipe.model_copy(update={"model": "fake"}), files, device="cpu", threads=1)
    around.model = _Known(torch.from_numpy(alpha)[None].logit(1e-6))
    written = itertools.count()  # an object that is there is not written again

    def write() -> None:
        number = next(written)
        for output, content in objects.items():
            files.create(str(folder / f"{number}.{output}.png"), content)

    frame, p = make_frame(image, whole, recipe), torch.from_numpy(alpha)

    def refined() -> object:
        (refinement,) = prepare_refinements(around.refiner, [image], [whole], frame[None], p[None])
        return to_mask(restore(alpha, whole, recipe, None if refinement is None else refinement.whole))

    stages: dict[str, Callable[[], object]] = {
        "fetch": lambda: files.fetch(uri, max_bytes=limits.max_bytes),
        "decode": lambda: decode(data, limits),
        "frame": lambda: make_frame(image, whole, recipe),
        "restore": lambda: to_mask(restore(alpha, whole, recipe)),
        "restore, refined": refined,
        "around the model": lambda: around.segment([image], [None]),
        "foreground": lambda: estimate_foreground(image, mask, recipe.foreground),
        "encode mask": lambda: encode_mask(mask),
        "encode cutout": lambda: encode_cutout(colours, mask),
        "write": write,
    }
    return {stage: float(np.median(seconds(work, for_s=for_s, most=50))) for stage, work in stages.items()}


class _Known:
    """A model that has its answer."""

    device = torch.device("cpu")
    engine = "none"

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.frame_px = logits, logits.shape[-1]

    def __call__(self, frames: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        return self.logits


def _alpha(image: Pixels, recipe: Recipe, masks: Segmenter) -> Alpha:
    """A mask at the recipe's frame, (S, S): u2netp's own is smaller."""
    frame = make_frame(image, place(image.shape[:2], None, masks.recipe), masks.recipe)
    small = masks.model(frame[None]).sigmoid()[0].numpy()
    side = recipe.frame_px
    return restore(small, place((side, side), None, masks.recipe), masks.recipe)
