"""Rasterise the polygons of annotation files, and outline masks by polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Mask, Size

Ring = npt.NDArray[np.float64]
"""Corners of a closed polygon: (N, 2), x and y in pixels."""

MAX_SUBSAMPLES = 8
"""Samples per pixel along each side."""
MAX_SAMPLES = 2**26
"""Samples per polygon. A large one is sampled more coarsely."""
MAX_COORDINATE = 1e6
"""Largest coordinate of a corner, without its sign."""

MIN_PART = 0.001
"""Parts and holes of an outline have at least this share of the area of its largest part."""
TOLERANCE = 0.5, 1 / 2048
"""Distance of a simplified outline from the exact one, at most: pixels, and share of the object's longer side."""
MAX_DISTANCES = 2**22
"""Distances of corners that are compared to join two rings."""


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


def outline(inside: Mask) -> Ring | None:
    """Return one polygon around all parts of a mask, (H, W) uint8 of 0 and 1; None if the mask is empty.

    Corners are the centres of the outermost pixels, so ``fillPoly``, which includes the contour, fills the same pixels. The
    polygon has at least three corners. Lines of no width, there and back, join parts and holes; a filled polygon has holes by
    the even-odd rule as by the non-zero rule. Small parts and holes are left out (``MIN_PART``).
    """
    rings = _rings(inside)
    if not rings:
        return None
    ring, *others = rings
    for other in others:
        ring = _join(ring, other)
    return _with_three_corners(ring) + 0.5


def outlines(inside: Mask) -> list[Ring]:
    """Return one polygon per part of a mask, (H, W) uint8 of 0 and 1, along the borders of its pixels, as in COCO.

    Holes are joined to their part as in ``outline``, and small parts and holes are left out. The polygon lies a quarter of a
    pixel inside the borders, and is then simplified.
    """
    x, y, width, height = cv2.boundingRect(inside)
    if not width:
        return []
    crop = inside[y : y + height, x : x + width]
    double = np.asarray(cv2.resize(crop, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), np.uint8)
    return [(_with_three_corners(ring) + 0.5) / 2 + (x, y) for ring in _rings(double)]


def _rings(inside: Mask) -> list[Ring]:
    """Return a ring through the centres of the outermost pixels of each part, with its holes, the largest part first."""
    x, y, width, height = cv2.boundingRect(inside)
    if not width:
        return []
    crop = np.ascontiguousarray(inside[y : y + height, x : x + width])
    contours, tree = cv2.findContours(crop, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    pixels, share = TOLERANCE
    tolerance = max(pixels, share * max(width, height))
    areas, parents = [cv2.contourArea(contour) for contour in contours], tree[0][:, 3].tolist()
    largest_first = sorted(range(len(contours)), key=lambda place: -areas[place])
    least = MIN_PART * max(area for area, parent in zip(areas, parents, strict=True) if parent < 0)
    joined: dict[int, Ring] = {}
    for place in largest_first:
        if parents[place] < 0 and (areas[place] >= least or not joined):
            joined[place] = _simplified(contours[place], tolerance)
    for place in largest_first:
        if parents[place] in joined and areas[place] >= least:
            joined[parents[place]] = _join(joined[parents[place]], _simplified(contours[place], tolerance))
    return [ring + np.array((x, y)) for ring in joined.values()]


def _with_three_corners(ring: Ring) -> Ring:
    return np.concatenate([ring, np.repeat(ring[-1:], max(0, 3 - len(ring)), axis=0)])


def _simplified(contour: npt.NDArray[Any], tolerance: float) -> Ring:
    return np.asarray(cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2), np.float64)


def _join(ring: Ring, other: Ring) -> Ring:
    """Insert a ring into another one, by a line between the nearest corners."""
    ends = other if len(ring) * len(other) <= MAX_DISTANCES else other[:1]
    distances = np.square(ring[:, None] - ends[None]).sum(-1)
    here, there = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.concatenate([np.roll(other, -there, axis=0), other[there : there + 1]])
    return np.concatenate([ring[: here + 1], around, ring[here:]])
