"""Polygons to masks, as annotation files have them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.types import Mask, Size

FINEST = 8
"""Samples of a pixel along each side, at most."""
MOST_SAMPLES = 2**26
"""Of one polygon: a large one is sampled more coarsely."""
FARTHEST = 1e6
"""Corners beyond it are nobody's drawing."""


def decode_polygons(size: Size, polygons: Sequence[Sequence[float]]) -> Mask:
    """What lies in any of the polygons, (H, W) uint8 of 0 and 1: a pixel counts when half of it is inside.

    Args:
        polygons: x0, y0, x1, y1, … each, three corners and more; the pixel in row i and column j reaches from (j, i) to
            (j + 1, i + 1), as in COCO.

    Raises:
        ValueError: a polygon isn't such a list of finite numbers.
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
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not (np.abs(corners) <= FARTHEST).all():
        raise ValueError("a polygon needs x and y of three corners or more, within reason")
    return corners.reshape(-1, 2)


def _add(mask: Mask, corners: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    """Sampled in the rectangle around the polygon alone."""
    height, width = mask.shape
    x0, y0 = (max(0, math.floor(low)) for low in corners.min(0))
    x1, y1 = (min(side, math.ceil(high)) for side, high in zip((width, height), corners.max(0), strict=True))
    if x0 >= x1 or y0 >= y1:
        return
    fine = max(1, min(FINEST, math.isqrt(MOST_SAMPLES // ((x1 - x0) * (y1 - y0)))))
    samples = np.zeros(((y1 - y0) * fine, (x1 - x0) * fine), np.uint8)
    # fillPoly paints the samples whose centres lie inside, and those that the contour runs through.
    points = (corners - (x0, y0)) * fine - 0.5
    cv2.fillPoly(samples, [np.rint(points * 16).astype(np.int32)], 255, shift=4)
    covered = cv2.resize(samples, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    mask[y0:y1, x0:x1] |= (covered >= 128).astype(np.uint8)
