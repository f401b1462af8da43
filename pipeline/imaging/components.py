"""Connected parts of a mask, and its holes."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Mask

PART, HOLE = 0.002, 0.0005
"""Smaller ones don't count, as shares of the mask."""


class Parts(NamedTuple):
    """How many ``parts`` (8-connected) and ``holes`` (4-connected), and the ``largest`` part's share of their area."""

    parts: int
    largest: float
    holes: int


def measure_parts(mask: Mask) -> Parts:
    """What the non-zero pixels of a mask (H, W) consist of."""
    inside = np.ascontiguousarray(mask != 0, np.uint8)
    x, y, width, height = cv2.boundingRect(inside)  # what is around that is no hole, and takes as long
    if not width:
        return Parts(0, 0.0, 0)
    inside = inside[y : y + height, x : x + width]
    areas = _areas(cv2.connectedComponents(inside, connectivity=8))[1:]  # the first is the rest
    # With a rim around it all that reaches the border is one part, which is no hole: that of the first pixel.
    rest = cv2.connectedComponents(cv2.copyMakeBorder(1 - inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1), connectivity=4)
    enclosed = np.delete(_areas(rest), [0, rest[1][0, 0]])
    largest = float(areas.max() / areas.sum())
    return Parts(int((areas > PART * mask.size).sum()), largest, int((enclosed > HOLE * mask.size).sum()))


def _areas(found: tuple[int, npt.NDArray[Any]]) -> npt.NDArray[np.intp]:
    """Pixels of each label: a third of the time of OpenCV's own statistics, which have more."""
    count, labels = found
    if count > 2:
        return np.bincount(labels.ravel())
    some = cv2.countNonZero(labels)  # of most masks there is one part, for which there is a quicker way
    return np.array([labels.size - some, some][:count])
