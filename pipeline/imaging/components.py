"""Connected parts of a mask, and its holes."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

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
    areas = cv2.connectedComponentsWithStats(inside, connectivity=8)[2][1:, cv2.CC_STAT_AREA]  # row 0 is the rest
    # With a rim around it all that reaches the mask's border is one part, which is no hole.
    rest = cv2.copyMakeBorder(1 - inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=4)
    enclosed = np.delete(stats[:, cv2.CC_STAT_AREA], [0, labels[0, 0]])
    largest = float(areas.max() / areas.sum()) if len(areas) else 0.0
    return Parts(int((areas > PART * mask.size).sum()), largest, int((enclosed > HOLE * mask.size).sum()))
