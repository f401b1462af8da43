"""A soft contact shadow: on the ground under the object, dark where it stands, fading where it rises from the ground."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.config.rendition import Shadow
from pipeline.imaging.renditions.fit import VISIBLE, Reach
from pipeline.types import Alpha, Size

SIGMAS = 3
"""The blur reaches so many standard deviations, and not a pixel farther."""

HOVER = 0.1
"""At this gap to the ground, a share of the object's height, a column's shadow is down to 37 %."""

FAR = 0.05
"""What is left of a shadow at three times that gap is none."""

SMALL_SIGMA_PX = 4.0
"""The shadow is made at a size where its blur is this wide, and enlarged: it has no detail to lose."""


class Cast(NamedTuple):
    """A shadow's opacity (h, w) float32 in [0, 1), and where its corner lies in the frame. It is 0 everywhere else."""

    opacity: Alpha
    top: int
    left: int


def reach(shadow: Shadow) -> Reach:
    """How far it goes beyond the object."""
    blur = SIGMAS * shadow.softness
    return Reach(blur, max(0.0, shadow.drop + shadow.depth / 2 + blur))


def cast(shadow: Shadow, alpha: Alpha, top: int, left: int, frame: Size) -> Cast | None:
    """The shadow of an object whose opacity (h, w) lies at ``top``, ``left`` of a frame, cut to the frame; None without any.

    Under every column of the object lies a strip around the object's lowest row, the darker and longer the nearer that column
    comes to the ground; then all is blurred. No row is touched that is more than half of ``depth`` and the blur's reach above
    the strips' middle.
    """
    x, y, width, height = cv2.boundingRect(np.asarray(alpha >= np.float32(VISIBLE / 255), np.uint8))
    if not width:
        return None
    sigma = max(0.5, shadow.softness * height)
    reach_px, half_px = math.ceil(SIGMAS * sigma), max(1, round(shadow.depth * height / 2))
    strips = _strips(alpha[y : y + height, x : x + width], half_px)
    opacity = _blurred(strips, sigma, reach_px) * np.float32(shadow.opacity)
    first = top + y + height + round(shadow.drop * height) - half_px - reach_px
    before = left + x - reach_px
    rows = slice(max(0, -first), max(0, frame.height - first))
    columns = slice(max(0, -before), max(0, frame.width - before))
    inside = opacity[rows, columns]
    return Cast(inside, max(0, first), max(0, before)) if inside.size else None


def _strips(alpha: Alpha, half_px: int) -> Alpha:
    """(h, w) to (2 half_px, w): how dark it is under every column, before the blur."""
    seen = alpha >= np.float32(VISIBLE / 255)
    gaps = np.where(seen.any(axis=0), np.argmax(seen[::-1], axis=0), np.inf) / len(alpha)
    nearness = np.maximum(0, np.exp(-gaps / HOVER) - FAR).astype(np.float32) / np.float32(1 - FAR)
    away = np.abs(np.arange(2 * half_px, dtype=np.float32) + 0.5 - half_px)[:, None]
    return np.asarray(nearness * np.clip(half_px * np.sqrt(nearness) - away + 0.5, 0, 1), np.float32)


def _blurred(strips: Alpha, sigma: float, reach_px: int) -> Alpha:
    """With ``reach_px`` more on all sides, which end in 0."""
    height, width = strips.shape
    smaller = max(1.0, sigma / SMALL_SIGMA_PX)
    room = max(1, int(reach_px / smaller))
    size = Size(max(1, round(height / smaller)), max(1, round(width / smaller)))
    small = np.zeros((size.height + 2 * room, size.width + 2 * room), np.float32)
    small[room : room + size.height, room : room + size.width] = cv2.resize(strips, size[::-1], interpolation=cv2.INTER_AREA)
    small = np.asarray(cv2.GaussianBlur(small, (0, 0), sigma / smaller, borderType=cv2.BORDER_CONSTANT), np.float32)
    small[[0, -1]] = 0
    small[:, [0, -1]] = 0
    whole = (width + 2 * reach_px, height + 2 * reach_px)
    return np.asarray(cv2.resize(small, whole, interpolation=cv2.INTER_LINEAR), np.float32)
