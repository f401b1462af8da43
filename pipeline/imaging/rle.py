"""Encode masks as COCO's run lengths: numbers of 0 and 1 in turn, column by column, as compressed text.

The format is that of the COCO API (cocodataset/cocoapi, ``common/maskApi.c``: ``rleEncode``, ``rleToString``, ``rleFrString``).
The tests compare with its library, pycocotools. It isn't used here because it reads beyond its memory on damaged text, and
``matteline verify`` reads damaged objects.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Mask, Region, Size

HALF = 128
"""From this level on a pixel belongs to the object (opacity above one half)."""

_DIGITS = 7
"""Largest number of digits per run, of five bits each."""

Runs = npt.NDArray[np.int64]
"""(N,). The first run is of background and may be 0."""


def binarize(mask: Mask) -> Mask:
    """Convert opacity (H, W) uint8 to 0 and 1."""
    return np.asarray(cv2.inRange(mask, HALF, 255), np.uint8) & np.uint8(1)


def run_lengths(inside: Mask) -> dict[str, Any]:
    """Return the COCO geometry of a mask (H, W) uint8 of 0 and 1.

    Its keys: ``size`` [height, width], ``counts``, ``bbox`` [x, y, width, height], ``area``.
    """
    return {
        "size": list(inside.shape),
        "counts": _to_text(_runs(inside)),
        "bbox": list(cv2.boundingRect(inside)),
        "area": int(cv2.countNonZero(inside)),
    }


def encode_rle(inside: Mask) -> bytes:
    """Return ``run_lengths`` as a JSON object."""
    return json.dumps(run_lengths(inside), separators=(",", ":")).encode()


def decode_counts(size: Size, counts: object) -> Mask:
    """Decode COCO's run lengths, as text or as a list of numbers, to a mask: (H, W) uint8, 0 and 1.

    Raises:
        ValueError: They are neither, or do not add up to the size.
    """
    runs = _read_counts(size, counts)
    values = (np.arange(len(runs)) & 1).astype(np.uint8)
    return np.asarray(cv2.transpose(np.repeat(values, runs).reshape(size.width, size.height)), np.uint8)


def bounds_of(size: Size, counts: object) -> Region | None:
    """Return the box of COCO's run lengths, without decoding them: x0, y0, x1, y1, end-exclusive; None if no pixel is inside.

    Raises:
        ValueError: As ``decode_counts``.
    """
    runs = _read_counts(size, counts)
    ends = np.cumsum(runs)
    inside = (np.arange(len(runs)) % 2 == 1) & (runs > 0)
    first, last = (ends - runs)[inside], ends[inside] - 1  # places of pixels, column by column
    if not len(first):
        return None
    spans = first // size.height != last // size.height  # it goes through the bottom of a column and the top of the next
    top = 0 if spans.any() else int((first % size.height).min())
    bottom = size.height if spans.any() else int((last % size.height).max()) + 1
    return int(first.min()) // size.height, top, int(last.max()) // size.height + 1, bottom


def _read_counts(size: Size, counts: object) -> Runs:
    if isinstance(counts, str):
        runs = _from_text(counts.encode("ascii"))
    elif isinstance(counts, list) and all(isinstance(run, int) and 0 <= run < 2**40 for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("its counts are neither COCO's compressed text nor a list of run lengths")
    if not _fills(runs, size):
        raise ValueError(f"its run lengths do not add up to {size.width} x {size.height} pixels")
    return runs


def read_rle(data: bytes) -> tuple[Size, Runs]:
    """Read size and runs. Needs little memory, whatever size the data claims.

    Raises:
        ValueError: The data is no such JSON, or size or area contradict the run lengths.
    """
    try:
        content = json.loads(data)
        height, width = (int(side) for side in content["size"])
        text, area = content["counts"].encode("ascii"), content["area"]
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError("it is not a JSON object with size, counts and area") from error
    runs = _from_text(text)
    if not _fills(runs, Size(height, width)):
        raise ValueError(f"its run lengths do not add up to {width} x {height} pixels")
    if int(runs[1::2].sum()) != area:
        raise ValueError("its area differs from the sum of its foreground run lengths")
    return Size(height, width), runs


def _fills(runs: Runs, size: Size) -> bool:
    return min(size) >= 1 and runs.min(initial=0) >= 0 and float(runs.sum(dtype=np.float64)) == size.height * size.width


def _runs(inside: Mask) -> Runs:
    down = np.asarray(cv2.transpose(inside)).reshape(-1)
    starts = np.flatnonzero(down[1:] != down[:-1]) + 1
    first = [0, 0] if down[0] else [0]
    return np.diff(np.concatenate([first, starts, [down.size]])).astype(np.int64)


def _to_text(runs: Runs) -> str:
    """Encode run lengths as COCO's text (``rleToString`` in cocoapi's ``maskApi.c``).

    Each run is a number in digits of five bits, lowest first. From the fourth run on, the number is the difference from the
    run two before. The sixth bit of a digit is 1 if another digit follows. The fifth bit of the last digit is the sign. 48 is
    added to each digit, which makes it a printable character.
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


def _from_text(text: bytes) -> Runs:
    """Read the output of ``_to_text``.

    Raises:
        ValueError: It isn't such a text.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32 or lengths.max() > _DIGITS:
        raise ValueError("its counts aren't COCO's compressed text of run lengths")
    places = np.arange(len(digits)) - np.repeat(ends - lengths + 1, lengths)
    numbers = np.add.reduceat((digits & 31) << 5 * places, ends - lengths + 1)
    numbers -= np.where(digits[ends] & 16, 1 << 5 * lengths, 0)
    for parity in (1, 2):
        numbers[parity::2] = np.cumsum(numbers[parity::2])
    return numbers
