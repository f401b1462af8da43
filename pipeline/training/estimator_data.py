"""Photos of which it is known what a model's map was worth: what the estimator learns from.

Photos with true masks (Parquet: ``image``, ``mask`` bytes), as they are, cut, or made harder (``imaging.copies``), some with
the object's box and a few with a wrong one, go through a preset's model. What is kept of each is small, so it lies on disk,
in parts: a run that was broken off goes on with the next.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from PIL import Image

from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.imaging.corruptions import KINDS, Kind, make_copy
from pipeline.imaging.frame import make_frame, place
from pipeline.imaging.rle import HALF
from pipeline.models.estimator import SIDE_PX
from pipeline.models.load import Model, load_model
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights
from pipeline.types import Box, Mask, Pixels

PART = 250
"""Photos a part."""

PLAIN, CUT = 0.35, 0.1
"""Shares of photos as they are, and of such that a border cuts; the rest are harder copies."""

BOXED, MISLED = 0.25, 0.08
"""Shares with the object's box, and with a box beside it, in which little or nothing is to be found."""

LEAST_PX = 50
"""Of an object."""


@dataclass(frozen=True)
class Judged:
    """N maps: frames (N, s, s, 3) uint8, maps (N, s, s) uint8, ``dice`` (N,) float32, and the photos' numbers (N,)."""

    frames: npt.NDArray[np.uint8]
    maps: npt.NDArray[np.uint8]
    dice: npt.NDArray[np.float32]
    photos: npt.NDArray[np.int64]


def judge_photos(folder: Path, preset: str, out: Path, *, times: int, processes: int) -> Judged:
    """Every photo below a folder ``times`` times, each time otherwise.

    Args:
        out: where the parts are kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    sources = sorted(folder.glob("*.parquet"))
    counts = [pq.ParquetFile(source).metadata.num_rows for source in sources]
    asked = [
        (source, start, sum(counts[:number]) + start, turn, preset, out / f"{source.stem}-{start:05}-{turn}.npz")
        for turn in range(times)
        for number, source in enumerate(sources)
        for start in range(0, counts[number], PART)
    ]
    # Not forked: a process with the threads of PyTorch or Ray would leave its copies locks that nobody opens.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_part, [one for one in asked if not one[-1].exists()]))
    parts = [np.load(one[-1]) for one in asked]
    return Judged(*(np.concatenate([part[name] for part in parts]) for name in Judged.__dataclass_fields__))


def _part(asked: tuple[Path, int, int, int, str, Path]) -> None:
    """One part, written whole or not at all."""
    source, start, first, turn, preset, target = asked
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = pq.read_table(source, columns=["image", "mask"]).slice(start, PART).to_pylist()
    recipe = load_preset(preset, {"precision": "fp32"}).recipe
    model = load_model(recipe, fetch_weights(recipe.weights, recipe.weights_sha256, Files())[0], device="cpu", threads=1)
    made: dict[str, list[Any]] = {name: [] for name in Judged.__dataclass_fields__}
    for number, (photo, truth) in enumerate(_drawn(rows, np.random.default_rng([first, turn]))):
        if np.count_nonzero(truth >= HALF) < LEAST_PX:
            continue
        rng = np.random.default_rng([first + number, turn, 1])
        frame, p, dice = _seen(model, recipe, photo, truth, _some_box(truth, rng))
        made["frames"].append(cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
        made["maps"].append(np.rint(255 * cv2.resize(p, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)).astype(np.uint8))
        made["dice"].append(np.float32(dice))
        made["photos"].append(first + number)
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.array(values) for name, values in made.items()})
    part.rename(target)


def _drawn(rows: Sequence[dict[str, Any]], rng: np.random.Generator) -> Iterator[tuple[Pixels, Mask]]:
    """Each photo once, in one of the ways."""
    photos = [_decoded(row) for row in rows]
    for number, (photo, truth) in enumerate(photos):
        way = rng.random()
        if way < CUT:
            yield _cut(photo, truth, rng)
        elif way < CUT + PLAIN:
            yield photo, truth
        else:
            kind: Kind = KINDS[rng.integers(len(KINDS))]
            other = photos[(number + int(rng.integers(1, len(photos)))) % len(photos)]
            try:
                yield make_copy(photo, truth, kind, int(rng.integers(2**31)), other), truth
            except ValueError:  # no room, or no floor: as it is
                yield photo, truth


def _decoded(row: dict[str, Any]) -> tuple[Pixels, Mask]:
    image, mask = (row[name]["bytes"] if isinstance(row[name], dict) else row[name] for name in ("image", "mask"))
    photo = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), np.uint8)
    truth = Image.open(io.BytesIO(mask)).convert("L")
    return photo, np.asarray(truth.resize(photo.shape[1::-1], Image.Resampling.NEAREST), np.uint8)


def _cut(photo: Pixels, truth: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """40 to 85 % of each side, anywhere."""
    height, width = truth.shape
    rows, columns = int(height * rng.uniform(0.4, 0.85)), int(width * rng.uniform(0.4, 0.85))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    part = slice(top, top + rows), slice(left, left + columns)
    return np.ascontiguousarray(photo[part]), np.ascontiguousarray(truth[part])


def _box(truth: Mask) -> Box:
    x, y, width, height = cv2.boundingRect((truth >= HALF).astype(np.uint8))
    return Box(float(x), float(y), float(x + width), float(y + height))


def _some_box(truth: Mask, rng: np.random.Generator) -> Box | None:
    drawn = rng.random()
    if drawn < BOXED:
        return _box(truth)
    return _wrong_box(truth, rng) if drawn < BOXED + MISLED else None


def _wrong_box(truth: Mask, rng: np.random.Generator) -> Box | None:
    """A quarter to two thirds of each side, with less than a fifth of the object in it; None where there's no such place."""
    height, width = truth.shape
    inside = truth >= HALF
    for _ in range(20):
        rows, columns = (int(side * rng.uniform(0.25, 0.67)) for side in (height, width))
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        if inside[top : top + rows, left : left + columns].sum() < 0.2 * inside.sum():
            return Box(float(left), float(top), float(left + columns), float(top + rows))
    return None


def _seen(
    model: Model, recipe: Recipe, photo: Pixels, truth: Mask, box: Box | None
) -> tuple[Pixels, npt.NDArray[np.float32], float]:
    """The frame, the model's map of it, and its Dice within the frame."""
    placed = place((truth.shape[0], truth.shape[1]), box, recipe)
    frame = make_frame(photo, placed, recipe)
    p = model(frame[None]).sigmoid()[0].numpy()
    wanted = make_frame(np.repeat(truth[..., None], 3, 2), placed, recipe)[..., 0] >= HALF
    said = p > 0.5
    both, either = int((said & wanted).sum()), int(said.sum()) + int(wanted.sum())
    return frame, p, 2 * both / max(1, either)
