"""Map an image to the model's square frame, and alpha back to the image.

The geometry is the Finegrain box segmenter's (finegrain-ai/refiners, ``solutions/box_segmenter.py``): the box grows by a
margin, pixels outside the image are black, and the crop is resized to a square whatever its shape.
``models.resample`` does the same on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config.recipe import Recipe
from pipeline.errors import ItemRefused
from pipeline.types import Alpha, Box, Mask, Pixels, Region, Size

MAX_PADDED_PX = 16_777_216
"""Pixels of a crop that reaches past the image; or four times the image, if that is more."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True, slots=True)
class Placement:
    """The part of an image of ``size`` that fills the frame. ``region`` may reach past the image (black there)."""

    size: Size
    region: Region

    @property
    def inside(self) -> Region:
        """The part of the region on the image; never empty."""
        x0, y0, x1, y1 = self.region
        return max(x0, 0), max(y0, 0), min(x1, self.size.width), min(y1, self.size.height)


def place(size: tuple[int, int], box: Box | None, recipe: Recipe) -> Placement:
    """Place the box and its margin, or the complete image of this (height, width), in the frame.

    Raises:
        ItemRefused: The box is outside the image, or reaches so far past it that the frame would be mostly black.
    """
    size = Size(*size)
    if box is None:
        region = (0, 0, size.width, size.height)
    else:
        box.check_inside(size)
        region = (math.floor(box.x0), math.floor(box.y0), math.ceil(box.x1), math.ceil(box.y1))
    if box is not None or recipe.margin_without_box:
        x0, y0, x1, y1 = region
        right, down = int((x1 - x0) * recipe.box_margin), int((y1 - y0) * recipe.box_margin)
        region = (x0 - right, y0 - down, x1 + right, y1 + down)
    placement = Placement(size, region)
    if recipe.outside == "clip":
        return Placement(size, placement.inside)
    area = (region[2] - region[0]) * (region[3] - region[1])
    if area > max(4 * size.height * size.width, MAX_PADDED_PX):
        raise ItemRefused(
            f"box {[] if box is None else list(box)} reaches too far past the image of {size.width} x {size.height} "
            "pixels (width x height); clip the box to the image"
        )
    return placement


def make_frame(image: Pixels, placement: Placement, recipe: Recipe) -> Pixels:
    """Cut out the region (black outside the image) and resize it with the recipe's Pillow filter, which antialiases.

    The image is (H, W, 3) uint8 of the placement's size, the frame (S, S, 3) uint8 with S = ``recipe.frame_px``.
    """
    x0, y0, x1, y1 = placement.region
    left, top, right, bottom = placement.inside
    crop = image[top:bottom, left:right]
    if placement.inside != placement.region:
        padded = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
        padded[top - y0 : bottom - y0, left - x0 : right - x0] = crop
        crop = padded
    side = recipe.frame_px
    return np.array(Image.fromarray(crop).resize((side, side), _FILTERS[recipe.frame_resize]))


def restore(alpha: Alpha, placement: Placement, recipe: Recipe, refinement: Callable[[Alpha], None] | None = None) -> Alpha:
    """Map the frame's alpha (S, S), float32 in [0, 1], to the image: resized to the region, zero elsewhere.

    The refinement changes the part on the image in place, directly after resizing. Then ``recipe.stretch`` scales that part to
    [0, 1], as BEN2 does (PramaLLC/BEN2); a constant map stays as it is.

    Returns:
        (H, W) float32 in [0, 1], up to rounding in the last bit.
    """
    resized = _resize(alpha, placement, antialias=recipe.alpha_resize == "antialias")
    if refinement is not None:
        refinement(resized)
    if recipe.stretch:
        low, high, _, _ = cv2.minMaxLoc(resized)
        if high > low:
            resized -= low
            resized /= high - low
    return _paste(resized, placement)


def look_up(frame: Pixels, tables: npt.NDArray[np.float32], out: npt.NDArray[np.float32]) -> None:
    """Write the table's number for each level of a frame (S, S, 3) to planes (3, S, S); ``tables`` is (3, 256)."""
    for channel, table, plane in zip(cv2.split(np.ascontiguousarray(frame)), tables, out, strict=True):
        cv2.LUT(channel, table, dst=plane)


def resize_map(plane: npt.NDArray[np.float32], side: int) -> npt.NDArray[np.float32]:
    """Resize a model's output (h, w) to its frame (side, side), bilinearly between pixel centres."""
    return np.asarray(cv2.resize(plane, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def to_mask(alpha: Alpha) -> Mask:
    """Round alpha in [0, 1] to 0 … 255 (nearest, half to even). Opacity is rounded nowhere else."""
    return np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)


def _paste(resized: Alpha, placement: Placement) -> Alpha:
    """Place alpha on the image, zero elsewhere."""
    if resized.shape == placement.size:
        return resized
    left, top, right, bottom = placement.inside
    image = np.zeros(placement.size, np.float32)
    image[top:bottom, left:right] = resized
    return image


def _resize(alpha: Alpha, placement: Placement, antialias: bool) -> Alpha:
    """Resize to the part of the region on the image, bilinearly between pixel centres; antialiased by Pillow where it shrinks.

    Pillow's filter widens when it shrinks. When it enlarges, it is plain bilinear, which OpenCV computes ten times as fast.
    """
    x0, y0, x1, y1 = placement.region
    left, top, right, bottom = placement.inside
    small = np.ascontiguousarray(alpha, np.float32)
    if antialias and (x1 - x0 < small.shape[1] or y1 - y0 < small.shape[0]):
        shrunk = min(x1 - x0, small.shape[1]), min(y1 - y0, small.shape[0])
        small = np.asarray(Image.fromarray(small).resize(shrunk, Image.Resampling.BILINEAR))
    region = cv2.resize(small, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return np.asarray(region[top - y0 : bottom - y0, left - x0 : right - x0], np.float32)
