"""Compute the object's place in a rendition's frame."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2

from pipeline.config.rendition import LONGEST_SIDE_PX, Rendition
from pipeline.types import Mask, Region, Size

MIN_VISIBLE = 13
"""Level (5 % opacity) from which on a pixel counts for the object's box. Fainter specks of a model are hardly visible and would
shift the object off the frame's middle."""

MAX_PX = 50_000_000
"""Pixels of a picture without a given size: a margin or a share of the frame may ask for any number of pixels."""


class Fit(NamedTuple):
    """The part of the image that is shown, resized to ``inner``, at ``top``, ``left`` of a frame of ``size``."""

    part: Region
    size: Size
    inner: Size
    top: int
    left: int

    @property
    def scale(self) -> float:
        """Pixels of the rendition per pixel of the image."""
        x0, y0, x1, y1 = self.part
        return max(self.inner.width / (x1 - x0), self.inner.height / (y1 - y0))

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that hold the part."""
        return slice(self.top, self.top + self.inner.height), slice(self.left, self.left + self.inner.width)


class Extent(NamedTuple):
    """Distance that a shadow reaches beyond the object, in shares of the object's height."""

    aside: float = 0.0
    below: float = 0.0


NO_EXTENT = Extent()


def object_box(mask: Mask) -> Region | None:
    """Return the bounding box of the visible pixels of (H, W) uint8; None if there is none."""
    x, y, width, height = cv2.boundingRect(cv2.inRange(mask, MIN_VISIBLE, 255))
    return (x, y, x + width, y + height) if width else None


def fit(image: Size, box: Region | None, rendition: Rendition, size_px: int | None, extent: Extent = NO_EXTENT) -> Fit:
    """Fit the frame around the object's box (``trim``, ``fill``) or the complete image, in the rendition's aspect and size.

    The object or the image is in the middle. The middle of a trimmed object includes the ``extent`` of its shadow. Without
    ``size_px`` nothing is resized, unless the frame would exceed the limits.
    """
    cut = rendition.trim is not None or rendition.fill is not None
    part = box if cut and box is not None else (0, 0, image.width, image.height)
    width, height = part[2] - part[0], part[3] - part[1]
    aside, below = (extent.aside * height, extent.below * height) if rendition.trim is not None else (0.0, 0.0)
    across, down = _frame(width + 2 * aside, height + below, rendition)
    whole_mask = rendition.what != "cutout" and not cut and rendition.aspect is None
    scale = size_px / max(across, down) if size_px else 1.0 if whole_mask else _scale_within_limits(across, down)
    size = Size(max(1, round(down * scale)), max(1, round(across * scale)))
    inner = Size(min(size.height, max(1, round(height * scale))), min(size.width, max(1, round(width * scale))))
    top = max(0, round((size.height - inner.height - below * scale) / 2))
    return Fit(part, size, inner, top, (size.width - inner.width) // 2)


def _frame(width: float, height: float, rendition: Rendition) -> tuple[float, float]:
    """Return the width and height of the frame around this width and height, in pixels of the image."""
    if rendition.fill is not None:
        across, down = width / rendition.fill, height / rendition.fill
    else:
        margin = (rendition.trim or 0.0) * max(width, height)
        across, down = width + 2 * margin, height + 2 * margin
    if rendition.aspect is None:
        return across, down
    aspect = rendition.aspect[0] / rendition.aspect[1]
    # The side that limits the object stays. The other one grows.
    return (across, across / aspect) if across >= down * aspect else (down * aspect, down)


def _scale_within_limits(across: float, down: float) -> float:
    """Return the factor, at most 1, that reduces a frame to the limits."""
    return min(1.0, LONGEST_SIDE_PX / max(across, down), math.sqrt(MAX_PX / (across * down)))
