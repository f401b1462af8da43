"""Make the estimator's training data: the bundled models' maps of photos, and their Dice.

Photos with ground truth (Parquet: ``image``, ``mask`` bytes) go through a model: as they are, cropped, or corrupted
(``imaging.corruptions``), without a box or with one as people and detectors draw it (``imaging.rough_boxes``). The results are
small and are kept on disk in parts, so an interrupted run continues with the next part. The parts of other photos, models or
settings are in other folders.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config.presets import load_preset
from pipeline.config.recipe import Recipe
from pipeline.imaging.corruptions import KINDS, Kind, corrupt
from pipeline.imaging.frame import make_frame, place
from pipeline.imaging.rle import HALF
from pipeline.imaging.rough_boxes import BoxKind, rough_box
from pipeline.models.estimator import SIDE_PX
from pipeline.models.load import Model, load_model
from pipeline.storage.files import Files
from pipeline.storage.weights_cache import fetch_weights
from pipeline.training.distributed import use_one_thread
from pipeline.types import Box, Mask, Pixels

PRESETS = ("u2netp", "mvanet-lite")
"""The models whose maps the estimator learns to score. Parts take turns."""

PHOTOS_PER_PART = 250

UNCHANGED, CROPPED = 0.35, 0.1
"""Shares of photos without a change, and of those cropped so that an edge may cut the object. The others are corrupted."""

BOXES: dict[BoxKind, float] = {
    "none": 0.42,
    "tight": 0.15,
    "loose": 0.2,
    "whole": 0.05,
    "shifted": 0.05,
    "cut": 0.05,
    "beside": 0.08,
}
"""Share of each kind of box."""

MIN_OBJECT_PX = 50
"""Pixels of an object. Photos with less are left out."""


class Picture(NamedTuple):
    """A picture to score: its number, (H, W, 3) uint8, its ground truth (H, W) uint8, and the box that is asked for."""

    number: int
    photo: Pixels
    truth: Mask
    box: Box | None


@dataclass(frozen=True)
class ScoredMaps:
    """N maps: ``frames`` (N, s, s, 3) uint8, ``maps`` (N, s, s) uint8, ``dice`` (N,) float32, ``photos`` (N,) numbers."""

    frames: npt.NDArray[np.uint8]
    maps: npt.NDArray[np.uint8]
    dice: npt.NDArray[np.float32]
    photos: npt.NDArray[np.int64]

    def with_others(self, others: ScoredMaps) -> ScoredMaps:
        """Return these maps and others after them."""
        names = ScoredMaps.__dataclass_fields__
        return ScoredMaps(*(np.concatenate([getattr(one, name) for one in (self, others)]) for name in names))


def score_photos(folder: Path, out: Path, *, times: int, processes: int) -> ScoredMaps:
    """Score ``times`` variants of every photo below a folder. Parts that ``out`` already holds are reused.

    They are in a folder of ``out`` that is named by ``data_key``.
    """
    sources = sorted(folder.glob("*.parquet"))
    out = out / data_key(sources)
    out.mkdir(parents=True, exist_ok=True)
    counts = [pq.ParquetFile(source).metadata.num_rows for source in sources]
    parts = [
        (source, start, sum(counts[:number]) + start, turn, out / f"{source.stem}-{start:05}-{turn}.npz")
        for turn in range(times)
        for number, source in enumerate(sources)
        for start in range(0, counts[number], PHOTOS_PER_PART)
    ]
    # Spawned: a fork would inherit locks of the threads of PyTorch or Ray, which nobody would release.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_part, *zip(*[part for part in parts if not part[-1].exists()], strict=True)))
    return read_parts([part[-1] for part in parts])


def read_parts(paths: Sequence[Path]) -> ScoredMaps:
    """Read files of ``write_maps`` as one."""
    arrays = [np.load(path) for path in paths]
    return ScoredMaps(*(np.concatenate([part[name] for part in arrays]) for name in ScoredMaps.__dataclass_fields__))


def data_key(sources: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits that name the maps of these files: a hash of photos, models, boxes and shares."""
    digests = []
    for source in sources:
        with source.open("rb") as file:
            digests.append((source.name, hashlib.file_digest(file, "sha256").hexdigest()))
    facts = [digests, model_facts(), BOXES, UNCHANGED, CROPPED, KINDS, MIN_OBJECT_PX, PHOTOS_PER_PART, SIDE_PX]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def model_facts() -> dict[str, Any]:
    """Return the settings that change the models' maps; refiner and calibration come after these."""
    return {preset: _map_facts(_recipe_of(preset)) for preset in PRESETS}


def _map_facts(recipe: Recipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.facts().items() if not name.startswith(("refiner", "calibration"))}


def _recipe_of(preset: str) -> Recipe:
    """Return the recipe by which a model makes the maps."""
    return load_preset(preset, {"precision": "fp32"}).recipe


def _write_part(source: Path, start: int, first: int, turn: int, target: Path) -> None:
    """Score the photos of one part and write it. ``first`` is the number of its first photo."""
    rows = pq.read_table(source, columns=["image", "mask"]).slice(start, PHOTOS_PER_PART).to_pylist()

    def pictures() -> Iterator[Picture]:
        for number, (photo, truth) in enumerate(_variants(rows, np.random.default_rng([first, turn])), first):
            yield Picture(number, photo, truth, _choose_box(truth, np.random.default_rng([number, turn, 1])))

    write_maps(pictures(), PRESETS[(first // PHOTOS_PER_PART + turn) % len(PRESETS)], target)


def write_maps(pictures: Iterable[Picture], preset: str, target: Path) -> None:
    """Score a model's maps of pictures and write them atomically. Objects of less than ``MIN_OBJECT_PX`` are left out."""
    use_one_thread()
    recipe = _recipe_of(preset)
    model = load_model(recipe, fetch_weights(recipe.weights, recipe.weights_sha256, Files())[0], device="cpu", threads=1)
    columns: dict[str, list[Any]] = {name: [] for name in ScoredMaps.__dataclass_fields__}
    for number, photo, truth, box in pictures:
        if np.count_nonzero(truth >= HALF) < MIN_OBJECT_PX:
            continue
        frame, p, dice = _score(model, recipe, photo, truth, box)
        columns["frames"].append(cv2.resize(frame, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA))
        columns["maps"].append(np.rint(255 * cv2.resize(p, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)).astype(np.uint8))
        columns["dice"].append(np.float32(dice))
        columns["photos"].append(number)
    partial = target.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.array(values) for name, values in columns.items()})
    partial.rename(target)


def _variants(rows: Sequence[dict[str, Any]], rng: np.random.Generator) -> Iterator[tuple[Pixels, Mask]]:
    """Yield one variant of each photo."""
    photos = [_decode(row) for row in rows]
    for number, (photo, truth) in enumerate(photos):
        way = rng.random()
        if way < CROPPED:
            yield _crop(photo, truth, rng)
        elif way < CROPPED + UNCHANGED:
            yield photo, truth
        else:
            kind: Kind = KINDS[rng.integers(len(KINDS))]
            other = photos[(number + int(rng.integers(1, max(2, len(photos))))) % len(photos)]
            try:
                yield corrupt(photo, truth, kind, int(rng.integers(2**31)), other), truth
            except ValueError:  # the corruption needs room, or a floor, that this photo does not have
                yield photo, truth


def _decode(row: dict[str, Any]) -> tuple[Pixels, Mask]:
    image, mask = (row[name]["bytes"] if isinstance(row[name], dict) else row[name] for name in ("image", "mask"))
    photo = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), np.uint8)
    truth = Image.open(io.BytesIO(mask)).convert("L")
    return photo, np.asarray(truth.resize(photo.shape[1::-1], Image.Resampling.NEAREST), np.uint8)


def _crop(photo: Pixels, truth: Mask, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Crop to 40 to 85 % of each side, anywhere."""
    height, width = truth.shape
    rows, columns = int(height * rng.uniform(0.4, 0.85)), int(width * rng.uniform(0.4, 0.85))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    part = slice(top, top + rows), slice(left, left + columns)
    return np.ascontiguousarray(photo[part]), np.ascontiguousarray(truth[part])


def _choose_box(truth: Mask, rng: np.random.Generator) -> Box | None:
    """Return a box of a kind that ``BOXES`` draws; None for no box, and for one beside an object that leaves no room."""
    kind = rng.choice(np.array(list(BOXES)), p=list(BOXES.values()))
    try:
        return rough_box(truth, kind, int(rng.integers(2**31)))
    except ValueError:
        return None


def _score(
    model: Model, recipe: Recipe, photo: Pixels, truth: Mask, box: Box | None
) -> tuple[Pixels, npt.NDArray[np.float32], float]:
    """Return the frame, the model's map of it, and the map's Dice within the frame."""
    placed = place((truth.shape[0], truth.shape[1]), box, recipe)
    frame = make_frame(photo, placed, recipe)
    p = model(frame[None]).sigmoid()[0].numpy()
    expected = make_frame(np.repeat(truth[..., None], 3, 2), placed, recipe)[..., 0] >= HALF
    predicted = p > 0.5
    intersection, total = int((predicted & expected).sum()), int(predicted.sum()) + int(expected.sum())
    return frame, p, 2 * intersection / max(1, total)
