"""The small values that every layer may hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ItemRefused

Pixels = npt.NDArray[np.uint8]
"""An RGB image: (H, W, 3) uint8, upright."""

Alpha = npt.NDArray[np.float32]
"""Opacity while it is worked on: (H, W) float32 in [0, 1]."""

Mask = npt.NDArray[np.uint8]
"""Opacity at rest: (H, W) uint8, 0 transparent, 255 opaque."""

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels of the image, end-exclusive; it may reach past the image."""


def as_alpha(mask: Mask) -> Alpha:
    """A mask's 0 to 255 as float32 in [0, 1]."""
    return np.divide(mask, np.float32(255), dtype=np.float32)


class Size(NamedTuple):
    """Height before width, in pixels."""

    height: int
    width: int


class Box(NamedTuple):
    """A rectangle in pixels of the upright image: x0, y0 inclusive, x1, y1 exclusive. May reach past the image."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def parse(cls, values: Sequence[Any]) -> Box:
        """The box in four numbers.

        Raises:
            ItemRefused: not four finite numbers, or inverted, or without area.
        """
        if len(values) != 4:
            raise ItemRefused(f"box has {len(values)} numbers; give four: x0, y0, x1, y1")
        try:
            x0, y0, x1, y1 = (float(value) for value in values)
        except (TypeError, ValueError):
            raise ItemRefused(
                f"box {list(values)} is not four numbers; give x0, y0, x1, y1 in pixels, or none at all"
            ) from None
        if not all(math.isfinite(value) for value in (x0, y0, x1, y1)):
            raise ItemRefused(f"box {[x0, y0, x1, y1]} is not finite; give x0, y0, x1, y1 in pixels, or none at all")
        if x1 <= x0 or y1 <= y0:
            raise ItemRefused(f"box {[x0, y0, x1, y1]} has no area; x1 must be above x0 and y1 above y0")
        return cls(x0, y0, x1, y1)

    def check_inside(self, size: Size) -> None:
        """Refuse a box that shares no pixel with an image of this size.

        Raises:
            ItemRefused: the box lies wholly outside.
        """
        if self.x1 <= 0 or self.y1 <= 0 or self.x0 >= size.width or self.y0 >= size.height:
            raise ItemRefused(
                f"box {list(self)} lies outside the image, which is {size.width} wide and {size.height} high; "
                "boxes are in pixels of the upright image"
            )


class Placed(Protocol):
    """Which part of an image fills the frame; see ``imaging.frame.Placement``."""

    @property
    def size(self) -> Size: ...
    @property
    def region(self) -> Region: ...
    @property
    def inside(self) -> Region: ...
