"""The work: images with a long tail of sizes, cut into blocks and into the pieces that travel between the stages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TIMES = json.loads((Path(__file__).resolve().parent / "times.json").read_text(encoding="utf-8"))
"""Seconds and bytes of the stages, with where each is from."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Times:
    """Seconds of an item in each stage: so many, and so many for every million pixels. Defaults are those of ``times.json``."""

    fetch_s: tuple[float, float] = tuple(TIMES["fetch_s"]["value"])  # type: ignore[assignment]
    """Of one connection; a task has ``threads`` of them."""
    decode_s: tuple[float, float] = tuple(TIMES["decode_s"]["value"])  # type: ignore[assignment]
    model_s: tuple[float, float] = tuple(TIMES["model_s"]["value"])  # type: ignore[assignment]
    """Of the network, whose frame is always as large, and of what is done at the image's size."""
    pass_s: float = TIMES["pass_s"]["value"]
    """Of a pass besides, whatever is in it."""
    finish_s: tuple[float, float] = tuple(TIMES["finish_s"]["value"])  # type: ignore[assignment]
    put_s: tuple[float, float] = tuple(TIMES["put_s"]["value"])  # type: ignore[assignment]
    """Of one connection, and one item's objects."""
    driver_s: float = TIMES["driver_s"]["value"]
    """Of the driver, a task of any stage."""


class Work(NamedTuple):
    """A run's pieces, block after block, as lists: looked up one by one, they are faster than arrays."""

    rows: list[int]
    decode_s: list[float]
    """Of reading and decoding together, with all threads of the task: of a slot."""
    model_s: list[float]
    finish_s: list[float]
    """Of a slot, without waiting for the store's permission."""
    first: list[int]
    """Of each block its first piece; and the number of pieces, as last."""

    @property
    def items(self) -> int:
        return sum(self.rows)


def sizes_mpx(items: int, seed: int = 0) -> Floats:
    """Million pixels of so many images: log-normal, half of them above the median; the largest are as large as may be."""
    sizes = TIMES["sizes_mpx"]
    drawn = sizes["median"] * np.exp(np.random.default_rng(seed).normal(0, sizes["sigma"], items))
    return np.clip(drawn, sizes["least"], sizes["most"])


def cut(mpx: Floats, rows: int, times: Times, *, batch: int, block_mib: int = 64, threads: int = 8) -> Work:
    """Blocks of ``rows`` items; pieces are what a decoding task hands on: pixels of ``block_mib``, and a batch at least.

    Args:
        batch: images a pass of the model; Ray puts pieces together until there are as many.
        threads: of a task, for the store.
    """
    blocks = -(-len(mpx) // rows)
    padded = np.zeros(blocks * rows)
    padded[: len(mpx)] = mpx
    grid = padded.reshape(blocks, rows)
    piece = np.zeros((blocks, rows), np.int64)  # which one of its block
    now, bytes_now, rows_now = np.zeros(blocks, np.int64), np.zeros(blocks), np.zeros(blocks, np.int64)
    for column in range(rows):
        full = (bytes_now >= block_mib * 2**20) & (rows_now >= batch)
        now[full] += 1
        bytes_now[full], rows_now[full] = 0, 0
        piece[:, column] = now
        bytes_now += 3e6 * grid[:, column]
        rows_now += 1
    first = np.concatenate([[0], np.cumsum(now + 1)])
    piece += first[:-1, None]
    of = piece.ravel()[: len(mpx)]
    count = int(of[-1]) + 1
    first = np.minimum(first, count)

    def added(seconds: Floats) -> Floats:
        return np.bincount(of, seconds, count)

    read = np.maximum(linear(times.fetch_s, mpx) / threads, linear(times.decode_s, mpx))
    written = np.maximum(linear(times.put_s, mpx) / threads, linear(times.finish_s, mpx))
    in_piece = np.bincount(of, minlength=count)
    model = added(linear(times.model_s, mpx)) + -(-in_piece // batch) * times.pass_s
    return Work(in_piece.tolist(), added(read).tolist(), model.tolist(), added(written).tolist(), first.tolist())


def linear(seconds: tuple[float, float], mpx: Floats) -> Floats:
    """So many seconds, and so many for every million pixels."""
    return seconds[0] + seconds[1] * mpx
