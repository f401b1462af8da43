"""The trimap of a mask: what is certainly object, certainly background, and unknown."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Alpha, Mask

UNKNOWN = 128
"""Level of the unknown region."""

LOW, HIGH = 10, 245
"""Opacity between these is unknown: 0.04 and 0.96, as in ``models.refiners.unknown_region``."""

RADIUS_SHARE = 1 / 250
"""Radius by which the unknown region is dilated, as a share of the longer side: 2 pixels of a frame of 512."""


def trimap_of(mask: Mask) -> Mask:
    """Return the trimap of a mask, (H, W) uint8: 0 background, 255 object, 128 unknown.

    Unknown are pixels of partial opacity and contours, dilated by ``RADIUS_SHARE`` of the longer side.
    """
    radius = max(1, round(max(mask.shape) * RADIUS_SHARE))
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    highest, lowest = cv2.dilate(mask, window), cv2.erode(mask, window)
    partial = ((mask > LOW) & (mask < HIGH)).astype(np.uint8)
    unknown = (cv2.dilate(partial, window) > 0) | (highest.astype(np.int16) - lowest > 127)
    return np.where(unknown, np.uint8(UNKNOWN), np.where(mask >= UNKNOWN, np.uint8(255), np.uint8(0)))


def near_contour(alpha: Alpha, radius: int) -> Alpha:
    """Return 1 near the contours of alpha, 0 elsewhere, and a ramp of one pixel between.

    Args:
        alpha: (H, W) float32 in [0, 1].
        radius: Pixels to both sides of a contour, along rows and columns.

    Returns:
        (H, W) float32.
    """
    inside = (alpha > 0.5).astype(np.float32)
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    near = cv2.dilate(inside, window) - cv2.erode(inside, window)
    return np.asarray(cv2.blur(near, (3, 3), borderType=cv2.BORDER_REPLICATE) * near, np.float32)
