"""Masks as COCO's run lengths: how many 0, how many 1, and so on by turns, column by column, in the compressed text form.

The format is that of the COCO API (cocodataset/cocoapi, ``common/maskApi.c``: ``rleEncode``, ``rleToString``, ``rleFrString``).
Its library, pycocotools, is held against this in the tests; it isn't used here, for it reads beyond its memory when a damaged
text is given to it, and damaged objects are what ``matteline verify`` looks for.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Mask, Size

HALF = 128
"""From this level on a pixel belongs to the object: opacity above one half."""

_DIGITS = 7
"""A number's most: five bits each."""

Runs = npt.NDArray[np.int64]
"""(N,), the first of them, which may be 0, of pixels without the object."""


def is_object(mask: Mask) -> Mask:
    """Opacity (H, W) uint8 as 0 and 1."""
    return np.asarray(cv2.inRange(mask, HALF, 255), np.uint8) & np.uint8(1)


def run_lengths(inside: Mask) -> dict[str, Any]:
    """An annotation's geometry as COCO has it: ``size`` [height, width], ``counts``, ``bbox`` [x, y, width, height], ``area``.

    Args:
        inside: (H, W) uint8, 0 and 1.
    """
    return {
        "size": list(inside.shape),
        "counts": _text(_runs(inside)),
        "bbox": list(cv2.boundingRect(inside)),
        "area": int(cv2.countNonZero(inside)),
    }


def encode_rle(inside: Mask) -> bytes:
    """``run_lengths`` as a JSON object."""
    return json.dumps(run_lengths(inside), separators=(",", ":")).encode()


def decode_rle(data: bytes) -> Mask:
    """What ``encode_rle`` was made from: (H, W) uint8, 0 and 1.

    Raises:
        ValueError: see ``read_rle``.
    """
    return _unrolled(*read_rle(data))


def decode_counts(size: Size, counts: object) -> Mask:
    """COCO's run lengths, as text or as a list of numbers, as a mask: (H, W) uint8, 0 and 1.

    Raises:
        ValueError: they are neither, or don't fill the size.
    """
    if isinstance(counts, str):
        runs = _numbers(counts.encode("ascii"))
    elif isinstance(counts, list) and all(isinstance(run, int) and 0 <= run < 2**40 for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("its counts are neither COCO's text nor a list of run lengths")
    if not _fill(runs, size):
        raise ValueError(f"its runs don't fill {size.width} x {size.height} pixels")
    return _unrolled(size, runs)


def read_rle(data: bytes) -> tuple[Size, Runs]:
    """Size and runs, which fill it; takes little memory, whatever size is claimed.

    Raises:
        ValueError: it is no such JSON, or its runs don't fill its size, or don't have its area.
    """
    try:
        content = json.loads(data)
        height, width = (int(side) for side in content["size"])
        text, area = content["counts"].encode("ascii"), content["area"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("it is no JSON object with size, counts and area") from error
    runs = _numbers(text)
    if not _fill(runs, Size(height, width)):
        raise ValueError(f"its runs don't fill {width} x {height} pixels")
    if int(runs[1::2].sum()) != area:
        raise ValueError("its area isn't that of its runs")
    return Size(height, width), runs


def _fill(runs: Runs, size: Size) -> bool:
    return min(size) >= 1 and runs.min(initial=0) >= 0 and float(runs.sum(dtype=np.float64)) == size.height * size.width


def _unrolled(size: Size, runs: Runs) -> Mask:
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    return np.asarray(cv2.transpose(np.repeat(values, runs).reshape(size.width, size.height)), np.uint8)


def _runs(inside: Mask) -> Runs:
    down = np.asarray(cv2.transpose(inside)).reshape(-1)
    starts = np.flatnonzero(down[1:] != down[:-1]) + 1
    first = [0, 0] if down[0] else [0]
    return np.diff(np.concatenate([first, starts, [down.size]])).astype(np.int64)


def _text(runs: Runs) -> str:
    """Each run, from the fourth on its difference to the last but one, in digits of five bits, the lowest first.

    A digit's sixth bit says that more follow, the fifth of the last one is the sign; 48 is added to all.
    """
    left = runs.copy()
    left[3:] -= runs[1:-2]
    digits = np.zeros((len(left), _DIGITS), np.uint8)
    follows = np.ones(len(left), np.bool_)
    for place in range(_DIGITS):
        digit = left & 31
        left >>= 5
        more = np.where(digit & 16, left != -1, left != 0)
        digits[:, place] = np.where(follows, (digit | more << 5) + 48, 0)
        follows &= more
    return digits[digits > 0].tobytes().decode("ascii")


def _numbers(text: bytes) -> Runs:
    """``_text`` undone.

    Raises:
        ValueError: it isn't such a text.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32 or lengths.max() > _DIGITS:
        raise ValueError("its counts aren't COCO's text of run lengths")
    places = np.arange(len(digits)) - np.repeat(ends - lengths + 1, lengths)
    numbers = np.add.reduceat((digits & 31) << 5 * places, ends - lengths + 1)
    numbers -= np.where(digits[ends] & 16, 1 << 5 * lengths, 0)
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers
