"""Compute a soft contact shadow: dark where the object touches the ground, fainter where it rises from it."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.config.rendition import Shadow
from pipeline.imaging.renditions.fit import MIN_VISIBLE, Extent
from pipeline.types import Alpha, Size

SIGMAS = 3
"""Standard deviations at which the blur is cut off."""

HOVER = 0.1
"""Gap between a column and the ground, as a share of the object's height, at which its shadow drops to 37 %."""

FAR = 0.05
"""Share that remains at three times that gap. It is subtracted, so that the shadow ends there."""

SMALL_SIGMA_PX = 4.0
"""Width of the blur at the size where the shadow is computed. It has no detail, so it is enlarged afterwards."""


class CastShadow(NamedTuple):
    """A shadow's opacity (h, w), float32 in [0, 1), and its corner in the frame. It is 0 everywhere else."""

    opacity: Alpha
    top: int
    left: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that hold the shadow."""
        rows, columns = self.opacity.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)


def shadow_extent(shadow: Shadow) -> Extent:
    """Return how far the shadow reaches beyond the object."""
    blur = SIGMAS * shadow.softness
    return Extent(blur, max(0.0, shadow.drop + shadow.depth / 2 + blur))


def cast_shadow(shadow: Shadow, alpha: Alpha, top: int, left: int, frame: Size) -> CastShadow | None:
    """Cast the shadow of an object whose opacity (h, w) is at ``top``, ``left`` of a frame; None if the frame shows none.

    Each column of the object casts a strip around the object's lowest row, darker and longer the nearer the column comes to the
    ground. Then all is blurred. The shadow begins at most half of ``depth`` and the blur's reach above the strips' middle.
    """
    x, y, width, height = cv2.boundingRect(np.asarray(alpha >= np.float32(MIN_VISIBLE / 255), np.uint8))
    if not width:
        return None
    sigma = max(0.5, shadow.softness * height)
    reach_px, half_px = math.ceil(SIGMAS * sigma), max(1, round(shadow.depth * height / 2))
    strips = _strips(alpha[y : y + height, x : x + width], half_px)
    opacity = _blur(strips, sigma, reach_px) * np.float32(shadow.opacity)
    first = top + y + height + round(shadow.drop * height) - half_px - reach_px
    before = left + x - reach_px
    rows = slice(max(0, -first), max(0, frame.height - first))
    columns = slice(max(0, -before), max(0, frame.width - before))
    inside = opacity[rows, columns]
    return CastShadow(inside, max(0, first), max(0, before)) if inside.size else None


def _strips(alpha: Alpha, half_px: int) -> Alpha:
    """Return the darkness below each column before the blur: (h, w) to (2 half_px, w)."""
    visible = alpha >= np.float32(MIN_VISIBLE / 255)
    gaps = np.where(visible.any(axis=0), np.argmax(visible[::-1], axis=0), np.inf) / len(alpha)
    nearness = np.maximum(0, np.exp(-gaps / HOVER) - FAR).astype(np.float32) / np.float32(1 - FAR)
    away = np.abs(np.arange(2 * half_px, dtype=np.float32) + 0.5 - half_px)[:, None]
    return np.asarray(nearness * np.clip(half_px * np.sqrt(nearness) - away + 0.5, 0, 1), np.float32)


def _blur(strips: Alpha, sigma: float, reach_px: int) -> Alpha:
    """Blur with ``reach_px`` more on all sides, ending in 0."""
    height, width = strips.shape
    factor = max(1.0, sigma / SMALL_SIGMA_PX)
    margin = max(1, int(reach_px / factor))
    size = Size(max(1, round(height / factor)), max(1, round(width / factor)))
    small = np.zeros((size.height + 2 * margin, size.width + 2 * margin), np.float32)
    inner = small[margin : margin + size.height, margin : margin + size.width]
    inner[:] = cv2.resize(strips, size[::-1], interpolation=cv2.INTER_AREA)
    small = np.asarray(cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_CONSTANT), np.float32)
    small[[0, -1]] = 0
    small[:, [0, -1]] = 0
    full = (width + 2 * reach_px, height + 2 * reach_px)
    return np.asarray(cv2.resize(small, full, interpolation=cv2.INTER_LINEAR), np.float32)
