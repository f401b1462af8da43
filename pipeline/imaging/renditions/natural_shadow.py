"""Keep the photo's own shadow: the share of light that the object takes from the ground, as a neutral multiply layer.

The shadow is 1 - photo / ground, where the ground is estimated as it would look without it. Only what darkens the ground
without changing its colour, and is connected with the object, is shadow. It fades out with the distance from the object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.renditions.fit import MIN_VISIBLE, Extent, Fit, object_box
from pipeline.imaging.renditions.ground import fit_ground
from pipeline.imaging.renditions.shadow import CastShadow
from pipeline.types import Alpha, Mask, Pixels, Region, Size

SIDE_PX = 512
"""Longer side at which the shadow is estimated. It is soft, and averaging removes noise."""

FAR, FADE, REACH, AROUND = 0.12, 0.6, 1.0, 1.25
"""Distances from the object, as shares of the geometric mean of its width and height: from where on the ground is mostly
without contact shadow; from where on shadows fade; where they end; up to where the ground is looked at."""

TINT = 0.08, 0.16
"""Change of colour, as a share of the ground's brightness, between which a dark pixel stops being shadow."""

MIN_SHARE, MIN_LEVEL, MAX_NOISE, MIN_PLAIN, TOLERANCE = 0.02, 50, 0.03, 0.9, 0.035
"""Limits of plain ground: its smallest share of the picture, mean level and largest noise; and the share, without the
shadow, that must differ by no more than the tolerance from the estimate."""

MIN_NOISE, MIN_SHADOW, MAX_OPACITY = 0.006, 0.02, 0.98
"""Noise that is assumed at least, opacity from which on there is a shadow, and largest opacity."""

BORDER = 0.04
"""Width of the fade at the borders of the photo and of the frame, as a share of the longer side."""

LITTLE = "no shadow: the photo shows too little ground beside the object"
DARK = "no shadow: the ground is too dark"
UNEVEN = "no shadow: the ground beside the object is not plain"
NONE = "no shadow: the photo shows none beside the object"

Map = npt.NDArray[np.float32]
"""(h, w), a number per pixel of the reduced photo."""

Flags = npt.NDArray[np.bool_]
"""(h, w)."""


@dataclass(frozen=True)
class NaturalShadow:
    """The shadow in a photo: opacity (h, w) in [0, 1), smaller than the photo, and how far it reaches beyond the object."""

    opacity: Alpha
    photo: Size
    extent: Extent

    def on_frame(self, placed: Fit) -> CastShadow | None:
        """Return the shadow in a rendition's frame, faded at the borders; None if the frame shows none of it."""
        x, y, width, height = cv2.boundingRect(np.asarray(self.opacity > 0, np.uint8))
        (x0, y0, x1, y1), (rows, columns) = placed.part, self.opacity.shape
        across = _Axis((x0, x1), placed.inner.width, placed.left, placed.size.width, self.photo.width, columns)
        down = _Axis((y0, y1), placed.inner.height, placed.top, placed.size.height, self.photo.height, rows)
        (left, right), (top, bottom) = across.frame_range(x, x + width), down.frame_range(y, y + height)
        if left >= right or top >= bottom:
            return None
        matrix = np.array([[across.step, 0, across.at(left)], [0, down.step, down.at(top)]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        opacity = np.asarray(cv2.warpAffine(self.opacity, matrix, (right - left, bottom - top), flags=flags), np.float32)
        fade = BORDER * max(across.visible[1] - across.visible[0], down.visible[1] - down.visible[0])
        opacity *= down.ramp(top, bottom, fade)[:, None]
        opacity *= across.ramp(left, right, fade)
        return CastShadow(opacity, top, left)


class _Axis:
    """Rows or columns of a frame, and where they are in the photo."""

    def __init__(self, part: tuple[int, int], inner: int, start: int, frame: int, photo: int, reduced: int) -> None:
        self.frame, self.start = frame, start
        self.step = (part[1] - part[0]) / inner * reduced / photo
        self.offset = part[0] * reduced / photo
        first = start - self.offset / self.step
        self.visible = max(0.0, first), min(float(frame), first + reduced / self.step)

    def at(self, pixel: int) -> float:
        """Return the index in the reduced photo of a pixel of the frame."""
        return (pixel + 0.5 - self.start) * self.step + self.offset - 0.5

    def frame_range(self, low: int, high: int) -> tuple[int, int]:
        """Return the pixels of the frame that show this range of the reduced photo, interpolated with what is beside it."""
        first, last = ((edge - self.offset) / self.step + self.start for edge in (low - 1, high + 1))
        return max(0, math.floor(first)), min(self.frame, math.ceil(last))

    def ramp(self, low: int, high: int, width: float) -> Map:
        """Return factors that rise from 0 at the borders to 1."""
        centres = np.arange(low, high) + 0.5
        return _smoothstep(np.minimum(centres - self.visible[0], self.visible[1] - centres), 0, max(width, 1))


def find_shadow(photo: Pixels, mask: Mask) -> NaturalShadow | str:
    """Estimate the shadow in a photo (H, W, 3) of a mask's (H, W) object; or return why the photo's shadow can't be used."""
    image, cover = _reduced(photo, mask)
    box = object_box(cover)
    if box is None:
        return LITTLE
    away = _distances(cover, box)
    covered = np.asarray(cv2.dilate(cover, np.ones((5, 5), np.uint8)) > 3, np.bool_)
    around = ~covered & (away < AROUND)
    far = around & (away > FAR)
    if far.mean() < MIN_SHARE:
        return LITTLE
    ground = fit_ground(image, far)
    light = np.asarray(image.sum(2) / ground.sum(2), np.float32)
    tint = np.asarray(np.abs(image - light[..., None] * ground).max(2) / ground.mean(2), np.float32)
    low = np.arange(len(cover))[:, None] >= (box[1] + box[3]) // 2  # a shadow falls there, before a wall as well
    noise = max(MIN_NOISE, *(1.4826 * _median(np.abs(light[part] - 1)) for part in (far, far & low)))
    shade = _connected(covered, (light < 1 - max(0.015, 2 * noise)) & (tint < np.mean(TINT)))
    if ground[around].mean() < MIN_LEVEL:
        return DARK
    rest = around & ~shade
    if noise > MAX_NOISE or not all(_is_plain(light[part], noise) for part in (rest, rest & low)):
        return UNEVEN
    opacity = _opacity(light, tint, shade, covered, noise) * (1 - _smoothstep(away, FADE, REACH))
    if opacity[~covered].max() < MIN_SHADOW:
        return NONE
    return NaturalShadow(np.asarray(opacity, np.float32), Size(*mask.shape), _extent(opacity, box))


def _reduced(photo: Pixels, mask: Mask) -> tuple[Map, Mask]:
    """Return the photo (h, w, 3) and the mask (h, w) at the size of the estimate."""
    height, width = mask.shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image, cover = (cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in (photo, mask))
    return np.asarray(image, np.float32), np.asarray(cover, np.uint8)


def _is_plain(light: npt.NDArray[np.float32], noise: float) -> bool:
    """Return whether enough of the ground is as bright as estimated; ``light`` (N,) is its share of the estimate."""
    return not light.size or float((np.abs(light - 1) < max(TOLERANCE, 3 * noise)).mean()) >= MIN_PLAIN


def _opacity(light: Map, tint: Map, shade: Flags, covered: Flags, noise: float) -> Map:
    """Return the shadow's opacity: what the light lacks at the shade and its soft edge, without noise and other colours."""
    beside = cv2.dilate(np.asarray(shade, np.uint8), np.ones((9, 9), np.uint8)) > 0
    lacking = np.where(beside & ~covered, np.clip(1 - light, 0, MAX_OPACITY), 0) * (1 - _smoothstep(tint, *TINT))
    return _behind_object(_denoise(np.asarray(lacking, np.float32), ~covered, noise), covered)


def _distances(cover: Mask, box: Region) -> Map:
    """Return the distance of each pixel from the object, as a share of the geometric mean of its width and height."""
    outside = np.asarray(cover < MIN_VISIBLE, np.uint8)
    size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_5) / np.float32(size), np.float32)


def _connected(covered: Flags, dark: Flags) -> Flags:
    """Return the dark pixels that are connected with the object."""
    _, labels = cv2.connectedComponents(np.asarray(covered | dark, np.uint8), connectivity=8)
    return np.isin(labels, np.unique(labels[covered])) & dark & ~covered


def _denoise(opacity: Map, known: Flags, noise: float) -> Map:
    """Average over neighbours that are not covered by the object, and remove what is as faint as noise."""
    weights = np.asarray(known, np.float32)
    smooth = cv2.GaussianBlur(opacity * weights, (0, 0), 1) / np.maximum(cv2.GaussianBlur(weights, (0, 0), 1), 1e-3)
    return np.asarray(smooth * weights * _smoothstep(smooth, noise / 2, 2.5 * noise), np.float32)


def _behind_object(opacity: Map, covered: Flags) -> Map:
    """Continue the shadow behind the object's edge, where it shows through: by averages over what is known, ever wider."""
    known = np.asarray(~covered, np.float32)
    for sigma in (1.5, 4, 12):
        weights = cv2.GaussianBlur(known, (0, 0), sigma)
        average = cv2.GaussianBlur(opacity * known, (0, 0), sigma) / np.maximum(weights, 1e-6)
        new = (known == 0) & (weights > 0.02)
        opacity = np.asarray(np.where(new, average, opacity), np.float32)
        known[new] = 1
    return opacity


def _extent(opacity: Map, box: Region) -> Extent:
    """Return how far the shadow reaches beyond the object's box, in shares of the object's height."""
    x, y, width, height = cv2.boundingRect(np.asarray(opacity >= MIN_SHADOW, np.uint8))
    aside, below = max(box[0] - x, x + width - box[2], 0), max(y + height - box[3], 0)
    return Extent(aside / (box[3] - box[1]), below / (box[3] - box[1]))


def _median(values: npt.NDArray[Any]) -> float:
    return float(np.median(values)) if values.size else 0.0


def _smoothstep(values: npt.NDArray[Any], low: float, high: float) -> Map:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``."""
    share = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)
