"""Define the small types that every layer uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ItemRefused

Pixels = npt.NDArray[np.uint8]
"""RGB image, upright: (H, W, 3) uint8."""

Alpha = npt.NDArray[np.float32]
"""Opacity during processing: (H, W) float32 in [0, 1]."""

Mask = npt.NDArray[np.uint8]
"""Opacity in files: (H, W) uint8, 0 transparent, 255 opaque."""

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels of the image, end-exclusive. May exceed the image."""


def as_alpha(mask: Mask) -> Alpha:
    """Convert a mask from 0…255 to float32 in [0, 1]."""
    return np.divide(mask, np.float32(255), dtype=np.float32)


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


class Box(NamedTuple):
    """Rectangle in pixels of the upright image: x0, y0 inclusive, x1, y1 exclusive. May exceed the image."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def parse(cls, values: Sequence[Any]) -> Box:
        """Parse a box from four numbers.

        Raises:
            ItemRefused: They are not four finite numbers, or the box is inverted, empty, or in shares of the image.
        """
        if len(values) != 4:
            raise ItemRefused(f"box has {len(values)} numbers; give four: x0, y0, x1, y1")
        try:
            x0, y0, x1, y1 = (float(value) for value in values)
        except (TypeError, ValueError):
            raise ItemRefused(f"box {list(values)} is not four numbers; give x0, y0, x1, y1 in pixels, or no box") from None
        if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
            raise ItemRefused(f"box {[x0, y0, x1, y1]} is not finite; give x0, y0, x1, y1 in pixels, or no box")
        if x1 <= x0 or y1 <= y0:
            raise ItemRefused(f"box {[x0, y0, x1, y1]} has no area; x1 must be above x0 and y1 above y0")
        if max(x1, y1) <= 1 and (x0 == y0 == 0 or not all(value.is_integer() for value in (x0, y0, x1, y1))):
            raise ItemRefused(
                f"box {[x0, y0, x1, y1]} seems to be shares of the image; give pixels: multiply by its size, or give no box "
                "for the complete image"
            )
        return cls(x0, y0, x1, y1)

    def check_inside(self, size: Size) -> None:
        """Refuse a box that has no pixel in common with an image of this size.

        Raises:
            ItemRefused: The box is completely outside.
        """
        if self.x1 <= 0 or self.y1 <= 0 or self.x0 >= size.width or self.y0 >= size.height:
            raise ItemRefused(
                f"box {list(self)} is outside the image of {size.width} x {size.height} pixels (width x height); "
                "boxes are in pixels of the upright image"
            )


class Placed(Protocol):
    """The part of an image that fills the frame; see ``imaging.frame.Placement``."""

    @property
    def size(self) -> Size:
        """Size of the image."""
        ...

    @property
    def region(self) -> Region:
        """Part of the image that fills the frame; may exceed it."""
        ...

    @property
    def inside(self) -> Region:
        """Part of the region that is inside the image."""
        ...
