"""Image to model frame and back: which part of the image fills the square that the model sees.

The geometry is the Finegrain box segmenter's (finegrain-ai/refiners, ``solutions/box_segmenter.py``): the box grows by a
margin, what lies outside the image is black, the crop is squeezed into the square whatever its shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from pipeline.config.recipe import Recipe
from pipeline.errors import ItemRefused
from pipeline.types import Alpha, Box, Mask, Pixels, Region, Size

MAX_PADDED_PX = 16_777_216
"""A crop that reaches past the image may be this large, or four times the image, whichever is more."""

UNSURE = 128
"""In a trimap."""

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of an image of ``size`` fills the frame; ``region`` may reach past the image (black there)."""

    size: Size
    region: Region

    @property
    def inside(self) -> Region:
        """The part of the region that lies on the image; never empty."""
        x0, y0, x1, y1 = self.region
        return max(x0, 0), max(y0, 0), min(x1, self.size.width), min(y1, self.size.height)


def place(size: tuple[int, int], box: Box | None, recipe: Recipe) -> Placement:
    """What the model is to see of an image of this (height, width): the box and its margin, or the whole image.

    Raises:
        ItemRefused: the box lies wholly outside the image, or so far past it that little but black would be seen.
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
            f"box {[] if box is None else list(box)} reaches too far past the image, which is {size.width} wide and "
            f"{size.height} high; cut the box to the image"
        )
    return placement


def make_frame(image: Pixels, placement: Placement, recipe: Recipe) -> Pixels:
    """The model's view: the region, black where it leaves the image, resized by Pillow's antialiasing filter.

    Args:
        image: (H, W, 3) uint8 of the placement's size.

    Returns:
        (S, S, 3) uint8 with S = ``recipe.frame_px``.
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
    """The frame's alpha at the image's size: resized to the region, laid on the image, zero elsewhere.

    ``recipe.stretch`` spreads what lies on the image over [0, 1] after resizing, as BEN2 does (PramaLLC/BEN2); a
    constant map stays as it is.

    Args:
        alpha: (S, S) float32 in [0, 1].
        redraw: a refiner's, which changes what lies on the image in place, before all else is done with it.

    Returns:
        (H, W) float32 in [0, 1], but for a last bit.
    """
    resized = _resized(alpha, placement, antialias=recipe.alpha_resize == "antialias")
    if refinement is not None:
        refinement(resized)
    if recipe.stretch:
        low, high, _, _ = cv2.minMaxLoc(resized)
        if high > low:
            resized -= low
            resized /= high - low
    return _laid(resized, placement)


def to_trimap(unknown: Alpha, mask: Mask, placement: Placement) -> Mask:
    """What is known of an image, (H, W) uint8: 0 background, 255 object, 128 where a refiner's answer may count.

    Args:
        band: (S, S) float32 in [0, 1] on the frame, as ``models.band.find_unknown`` gives it.
        mask: (H, W) uint8.
    """
    unsure = _laid(_resized(unknown, placement, antialias=True), placement) > 0
    return np.where(unsure, np.uint8(UNSURE), np.where(mask > UNSURE, np.uint8(255), np.uint8(0)))


def to_mask(alpha: Alpha) -> Mask:
    """Alpha in [0, 1] as 0 to 255: the one place where opacity is rounded (to the nearest, half to even)."""
    return np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)


def _laid(resized: Alpha, placement: Placement) -> Alpha:
    """On the image, with zero elsewhere."""
    if resized.shape == placement.size:
        return resized
    left, top, right, bottom = placement.inside
    whole = np.zeros(placement.size, np.float32)
    whole[top:bottom, left:right] = resized
    return whole


def _resized(alpha: Alpha, placement: Placement, antialias: bool) -> Alpha:
    """The inside of the region by bilinear interpolation between pixel centres; with antialias by Pillow's where it shrinks.

    Pillow's filter widens as it shrinks; where it enlarges, it is the plain one, which OpenCV computes ten times faster.
    """
    x0, y0, x1, y1 = placement.region
    left, top, right, bottom = placement.inside
    small = np.ascontiguousarray(alpha, np.float32)
    if antialias and (x1 - x0 < small.shape[1] or y1 - y0 < small.shape[0]):
        shrunk = min(x1 - x0, small.shape[1]), min(y1 - y0, small.shape[0])
        small = np.asarray(Image.fromarray(small).resize(shrunk, Image.Resampling.BILINEAR))
    region = cv2.resize(small, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return np.asarray(region[top - y0 : bottom - y0, left - x0 : right - x0], np.float32)
