"""Rasterise the polygons of annotation files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.types import Mask, Size

MAX_SUBSAMPLES = 8
"""Samples per pixel along each side."""
MAX_SAMPLES = 2**26
"""Samples per polygon. A large one is sampled more coarsely."""
MAX_COORDINATE = 1e6
"""Largest coordinate of a corner, without its sign."""


def decode_polygons(size: Size, polygons: Sequence[Sequence[float]]) -> Mask:
    """Return the union of polygons, (H, W) uint8 of 0 and 1. A pixel is 1 if half of it is inside.

    A polygon is x0, y0, x1, y1, … of three corners or more. The pixel in row i and column j reaches from (j, i) to
    (j + 1, i + 1), as in COCO.

    Raises:
        ValueError: A polygon isn't such a list of finite numbers.
    """
    mask = np.zeros(size, np.uint8)
    for polygon in polygons:
        _add(mask, _corners(polygon))
    return mask


def _corners(polygon: Sequence[float]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    try:
        corners = np.array(polygon, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("a polygon isn't a list of numbers") from error
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not (np.abs(corners) <= MAX_COORDINATE).all():
        raise ValueError(f"a polygon needs x and y of three corners or more, up to {MAX_COORDINATE:.0f}")
    return corners.reshape(-1, 2)


def _add(mask: Mask, corners: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    """Add one polygon, sampling its bounding box."""
    height, width = mask.shape
    x0, y0 = (max(0, math.floor(low)) for low in corners.min(0))
    x1, y1 = (min(side, math.ceil(high)) for side, high in zip((width, height), corners.max(0), strict=True))
    if x0 >= x1 or y0 >= y1:
        return
    fine = max(1, min(MAX_SUBSAMPLES, math.isqrt(MAX_SAMPLES // ((x1 - x0) * (y1 - y0)))))
    samples = np.zeros(((y1 - y0) * fine, (x1 - x0) * fine), np.uint8)
    # fillPoly fills the samples whose centres are inside, and those on the contour.
    points = (corners - (x0, y0)) * fine - 0.5
    cv2.fillPoly(samples, [np.rint(points * 16).astype(np.int32)], 255, shift=4)
    covered = cv2.resize(samples, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    mask[y0:y1, x0:x1] |= (covered >= 128).astype(np.uint8)
