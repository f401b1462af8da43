"""Where the object goes in a rendition's frame."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2

from pipeline.config.rendition import LONGEST_SIDE_PX, Rendition
from pipeline.types import Mask, Region, Size

VISIBLE = 13
"""From this level on (5 % opacity) a pixel counts as part of the object when its box is taken: what is fainter is hardly seen,
and a model's faint specks would otherwise move the object out of its frame's middle."""

MOST_PX = 50_000_000
"""Of a picture whose size isn't given: a margin or a share of the frame may ask for any number of pixels."""


class Fit(NamedTuple):
    """Which part of the image is shown, and where: resized to ``inner``, at ``top``, ``left`` of a frame of ``size``."""

    part: Region
    size: Size
    inner: Size
    top: int
    left: int

    @property
    def scale(self) -> float:
        """Pixels of the rendition a pixel of the image."""
        x0, y0, x1, y1 = self.part
        return max(self.inner.width / (x1 - x0), self.inner.height / (y1 - y0))


class Reach(NamedTuple):
    """How far something goes beyond the object, in shares of the object's height."""

    aside: float = 0.0
    below: float = 0.0


NO_REACH = Reach()


def object_box(mask: Mask) -> Region | None:
    """The least rectangle with all visible pixels of (H, W) uint8; None without any."""
    x, y, width, height = cv2.boundingRect(cv2.inRange(mask, VISIBLE, 255))
    return (x, y, x + width, y + height) if width else None


def fit(image: Size, box: Region | None, rendition: Rendition, size_px: int | None, reach: Reach = NO_REACH) -> Fit:
    """The frame around the object (``trim``, ``fill``) or around the whole image, of the aspect and size that are asked for.

    The object, or the image, stands in the middle; a trimmed object together with ``reach``. Without ``size_px`` a pixel stays
    a pixel, unless the frame would become larger than can be stored.

    Args:
        box: the object's; needed for ``trim`` and ``fill``.
    """
    cut = rendition.trim is not None or rendition.fill is not None
    part = box if cut and box is not None else (0, 0, image.width, image.height)
    width, height = part[2] - part[0], part[3] - part[1]
    aside, below = (reach.aside * height, reach.below * height) if rendition.trim is not None else (0.0, 0.0)
    across, down = _frame(width + 2 * aside, height + below, rendition)
    whole_mask = rendition.what != "cutout" and not cut and rendition.aspect is None
    scale = size_px / max(across, down) if size_px else 1.0 if whole_mask else _within(across, down)
    size = Size(max(1, round(down * scale)), max(1, round(across * scale)))
    inner = Size(min(size.height, max(1, round(height * scale))), min(size.width, max(1, round(width * scale))))
    top = max(0, round((size.height - inner.height - below * scale) / 2))
    return Fit(part, size, inner, top, (size.width - inner.width) // 2)


def _frame(width: float, height: float, rendition: Rendition) -> tuple[float, float]:
    """The frame's width and height in pixels of the image, around something of this size."""
    if rendition.fill is not None:
        across, down = width / rendition.fill, height / rendition.fill
    else:
        margin = (rendition.trim or 0.0) * max(width, height)
        across, down = width + 2 * margin, height + 2 * margin
    if rendition.aspect is None:
        return across, down
    aspect = rendition.aspect[0] / rendition.aspect[1]
    # The side that limits the object stays, the other one grows.
    return (across, across / aspect) if across >= down * aspect else (down * aspect, down)


def _within(across: float, down: float) -> float:
    """At most 1: what brings a frame within the limits."""
    return min(1.0, LONGEST_SIDE_PX / max(across, down), math.sqrt(MOST_PX / (across * down)))
