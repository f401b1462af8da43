"""Change hue and saturation, and keep lightness.

In OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020) L is lightness, and the angle and length of
(a, b) are hue and chroma: a and b are rotated and scaled, L stays. Where sRGB has no such colour, chroma is reduced until it
has one. Clipping red, green and blue instead would change lightness and hue.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from pipeline.config.rendition import rgb
from pipeline.types import Mask, Pixels

GRID = 33
"""Colours per side of the lookup table, with linear interpolation between them."""

MIN_CHROMA = 0.02
"""Mean chroma below which an object counts as grey: it has no hue to change."""

SAMPLES = 128
"""Approximate number of rows and columns that are sampled for the object's hue."""

STRIPE_PX = 2**20

Floats = npt.NDArray[np.float64]

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FROM_LAB, _FROM_LMS = np.linalg.inv(_TO_LAB), np.linalg.inv(_TO_LMS)


def recolour(image: Pixels, degrees: float, saturation: float) -> Pixels:
    """Rotate all hues of (H, W, 3) uint8 (red to yellow is positive) and multiply chroma by ``saturation``."""
    if degrees % 360 == 0 and saturation == 1:
        return image
    table = _table(round(degrees % 360, 1), saturation)
    recoloured = np.empty_like(image)
    rows = max(1, STRIPE_PX // image.shape[1])
    for top in range(0, image.shape[0], rows):
        stripe = Image.fromarray(np.ascontiguousarray(image[top : top + rows]))
        recoloured[top : top + rows] = np.asarray(stripe.filter(table))
    return recoloured


def hue_rotation(image: Pixels, mask: Mask, target: str) -> float | None:
    """Return the degrees from the object's hue to the target's (``#rrggbb``); None if either is grey.

    The image is (H, W, 3), the mask (H, W), uint8. The object's hue is that of its mean a and b, so strong colours count for
    more than pale ones.
    """
    steps = tuple(max(1, side // SAMPLES) for side in mask.shape)
    weights = mask[:: steps[0], :: steps[1]].reshape(-1).astype(np.float64)
    lab = to_oklab(image[:: steps[0], :: steps[1]].reshape(-1, 3) / 255)
    mean = weights @ lab[:, 1:] / max(1.0, weights.sum())
    goal = to_oklab(np.array([rgb(target)]) / 255)[0, 1:]
    if min(np.hypot(*mean), np.hypot(*goal)) < MIN_CHROMA:
        return None
    return math.degrees(math.atan2(goal[1], goal[0]) - math.atan2(mean[1], mean[0]))


def to_oklab(colours: Floats) -> Floats:
    """Convert sRGB (..., 3) in [0, 1] to lightness [0, 1], a and b."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


def _to_linear(lab: Floats) -> Floats:
    return np.asarray((lab @ _FROM_LAB.T) ** 3 @ _FROM_LMS.T)


@lru_cache(maxsize=8)
def _table(degrees: float, saturation: float) -> ImageFilter.Color3DLUT:
    """Build the lookup table."""
    steps = np.linspace(0, 1, GRID)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # Pillow wants red to change fastest
    lab = to_oklab(np.stack([red, green, blue], axis=-1).reshape(-1, 3))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    lab[:, 1:] = saturation * (lab[:, 1:] @ np.array([[cos, sin], [-sin, cos]]))
    linear = np.clip(_to_linear(_into_gamut(lab)), 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return ImageFilter.Color3DLUT(GRID, coded.reshape(-1).tolist())


def _into_gamut(lab: Floats) -> Floats:
    """Reduce each colour's chroma to the largest that sRGB has at its lightness and hue, by bisection."""
    low, high = np.zeros(len(lab)), np.ones(len(lab))
    for _ in range(16):
        middle = (low + high) / 2
        fits = _in_gamut(_with_chroma(lab, middle))
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return _with_chroma(lab, np.where(_in_gamut(lab), 1.0, low))


def _with_chroma(lab: Floats, share: Floats) -> Floats:
    return np.asarray(lab * np.stack([np.ones(len(lab)), share, share], axis=-1))


def _in_gamut(lab: Floats) -> npt.NDArray[np.bool_]:
    linear = _to_linear(lab)
    return np.asarray((linear >= -1e-4).all(axis=-1) & (linear <= 1 + 1e-4).all(axis=-1))
