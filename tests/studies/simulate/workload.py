"""The simulated work: images of log-normal sizes, cut into blocks and into the pieces that travel between the stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TIMES = json.loads((Path(__file__).resolve().parent / "times.json").read_text(encoding="utf-8"))
"""Seconds and bytes of the stages, each with its source: measured or declared."""

Floats = npt.NDArray[np.float64]


def _linear_time(name: str) -> tuple[float, float]:
    constant, per_mpx = TIMES[name]["value"]
    return constant, per_mpx


@dataclass(frozen=True)
class Times:
    """Seconds per item and stage, as a constant and a part per megapixel. Defaults are those of ``times.json``."""

    fetch_s: tuple[float, float] = _linear_time("fetch_s")
    """Of one connection; a task has several."""
    decode_s: tuple[float, float] = _linear_time("decode_s")
    model_s: tuple[float, float] = _linear_time("model_s")
    """Of the network, whose frame has a fixed size, and of the work at the image's size."""
    pass_s: float = TIMES["pass_s"]["value"]
    """Seconds per forward pass, whatever the batch."""
    finish_s: tuple[float, float] = _linear_time("finish_s")
    put_s: tuple[float, float] = _linear_time("put_s")
    """Of one connection, for one item's objects."""
    driver_s: float = TIMES["driver_s"]["value"]
    """Seconds of the driver per task of any stage."""


class Work(NamedTuple):
    """The pieces of a run, block after block. Lists, since single values are read faster from them than from arrays."""

    rows: list[int]
    decode_s: list[float]
    """Slot seconds of reading and decoding together, with all threads of the task."""
    model_s: list[float]
    finish_s: list[float]
    """Slot seconds, without throttling by the store."""
    first: list[int]
    """First piece of each block; the last entry is the number of pieces."""

    @property
    def items(self) -> int:
        return sum(self.rows)


def sizes_mpx(items: int, seed: int = 0) -> Floats:
    """Draw log-normal image sizes in megapixels."""
    sizes = TIMES["sizes_mpx"]
    drawn = sizes["median"] * np.exp(np.random.default_rng(seed).normal(0, sizes["sigma"], items))
    return np.clip(drawn, sizes["least"], sizes["most"])


def cut(mpx: Floats, rows: int, times: Times, *, batch: int, block_mib: int = 64, threads: int = 8) -> Work:
    """Cut images into blocks of ``rows`` items, and blocks into the pieces that a decode task emits.

    Args:
        mpx: Sizes of the images in megapixels.
        rows: Items per block.
        times: Seconds per item and stage.
        batch: Images per forward pass; a piece has at least as many, if its block does.
        block_mib: Decoded pixels at which a piece is emitted.
        threads: Connections of a task to the store.
    """
    blocks = -(-len(mpx) // rows)
    padded = np.zeros(blocks * rows)
    padded[: len(mpx)] = mpx
    grid = padded.reshape(blocks, rows)
    piece = np.zeros((blocks, rows), np.int64)  # number within its block
    current, current_bytes, current_rows = np.zeros(blocks, np.int64), np.zeros(blocks), np.zeros(blocks, np.int64)
    for column in range(rows):
        full = (current_bytes >= block_mib * 2**20) & (current_rows >= batch)
        current[full] += 1
        current_bytes[full], current_rows[full] = 0, 0
        piece[:, column] = current
        current_bytes += 3e6 * grid[:, column]
        current_rows += 1
    first = np.concatenate([[0], np.cumsum(current + 1)])
    piece += first[:-1, None]
    piece_of = piece.ravel()[: len(mpx)]
    count = int(piece_of[-1]) + 1
    first = np.minimum(first, count)

    def per_piece(seconds: Floats) -> Floats:
        return np.bincount(piece_of, seconds, count)

    read = np.maximum(linear(times.fetch_s, mpx) / threads, linear(times.decode_s, mpx))
    written = np.maximum(linear(times.put_s, mpx) / threads, linear(times.finish_s, mpx))
    in_piece = np.bincount(piece_of, minlength=count)
    model = per_piece(linear(times.model_s, mpx)) + -(-in_piece // batch) * times.pass_s
    return Work(in_piece.tolist(), per_piece(read).tolist(), model.tolist(), per_piece(written).tolist(), first.tolist())


def linear(seconds: tuple[float, float], mpx: Floats) -> Floats:
    """Return a constant and a part per megapixel."""
    return seconds[0] + seconds[1] * mpx
