"""Connected parts of a mask."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Mask


def count_components(mask: Mask, min_share: float = 0.002) -> int:
    """How many 8-connected parts of non-zero pixels cover more than ``min_share`` of the mask (H, W)."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]  # row 0 is the background
    return int((areas > min_share * mask.size).sum())
