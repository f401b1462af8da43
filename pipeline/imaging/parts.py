"""Boxes around the connected parts of a mask: several objects that do not touch, found without boxes and without names."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from pipeline.errors import PromptError
from pipeline.imaging.components import MIN_COMPONENT, nearer
from pipeline.imaging.rle import binarize
from pipeline.types import Box, Mask

EDGE = 0.03
"""Width of an object's soft edge, as a share of the picture's longer side."""


class Part(NamedTuple):
    """A connected part of a mask."""

    box: Box
    share: float
    """Of the area of all parts, in (0, 1]."""


def parts_of(mask: Mask, at_most: int) -> list[Part]:
    """Return the connected parts of a mask's pixels from 128 on, largest first. Diagonal neighbours are connected.

    Parts below ``MIN_COMPONENT`` of the mask's pixels are left out.

    Args:
        mask: (H, W) uint8.
        at_most: Number of parts.
    """
    _, _, found, _ = cv2.connectedComponentsWithStats(binarize(mask), connectivity=8)
    large = sorted((row for row in found[1:].tolist() if row[4] > MIN_COMPONENT * mask.size), key=lambda row: -row[4])
    area = sum(row[4] for row in large)
    return [Part(_box(row), row[4] / area) for row in large[:at_most]]


def part_at(mask: Mask, x: float, y: float) -> Box | None:
    """Return the box around the connected part of a mask at a point, of any size; None if the mask is below 128 there.

    Args:
        mask: (H, W) uint8.
        x: Pixels from the left edge; the pixel that contains the point counts.
        y: Pixels from the top edge.
    """
    height, width = mask.shape
    if not (0 <= x < width and 0 <= y < height):
        return None
    _, labels, found, _ = cv2.connectedComponentsWithStats(binarize(mask), connectivity=8)
    label = int(labels[int(y), int(x)])
    return _box(found[label].tolist()) if label else None


def box_at(mask: Mask, x: float, y: float) -> Box:
    """Return what ``part_at`` returns.

    Raises:
        PromptError: There is no part at the point.
    """
    box = part_at(mask, x, y)
    if box is None:
        raise PromptError(f"no object was found at the point {x:g},{y:g}; give a box around it")
    return box


def without_others(mask: Mask, whole: Mask, x: float, y: float) -> Mask:
    """Return the mask of one object without the other parts of ``whole``, and without their soft edges.

    A pixel is cleared if it is in another part, or within ``EDGE`` of the longer side from one and nearer to it than to the
    object's own part.

    Args:
        mask: (H, W) uint8, made from the box around the object's part.
        whole: (H, W) uint8, the mask of all objects.
        x: As for ``part_at``, which found a part there.
        y: As for ``part_at``.
    """
    labels = cv2.connectedComponents(binarize(whole), connectivity=8)[1]
    own = labels == labels[int(y), int(x)]
    others = (labels > 0) & ~own
    if not others.any():
        return mask
    beside = nearer(others, own, max(2.0, EDGE * max(mask.shape)), cv2.DIST_MASK_5)
    return np.where(beside, 0, mask).astype(np.uint8)


def _box(row: list[int]) -> Box:
    x, y, width, height, _ = row
    return Box(float(x), float(y), float(x + width), float(y + height))
