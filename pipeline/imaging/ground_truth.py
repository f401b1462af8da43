"""Decode ground-truth masks of any origin: grey pictures or transparency, 0 background, 255 object, opacity between."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode, decode_stored, has_deep_samples
from pipeline.imaging.sniff import sniff
from pipeline.types import Mask

COLOUR_LEVELS = 8
"""Largest difference between the channels of a JPEG's grey."""

SHARE = 0.01
"""Share of black and of white pixels above which grey levels are a mask of their own."""

LABELS = 32
"""A picture of at most so many levels may hold labels, and not opacity."""

SOFT, HALF = 250 / 255, 128 / 255
"""Highest level of opacity, at least, as a share of white: of a picture of few levels, and of any."""

GREY_STEP = 17
"""Greatest common divisor of the levels of grey with 1, 2 or 4 bits, or a multiple of it."""


LOSSLESS = ("PNG", "TIFF", "GIF", "BMP")
"""Formats that keep levels as they are. (A TIFF with a JPEG inside has many levels.)"""

BACKGROUND = 0.05
"""Share of black pixels in a file of labels, at least."""

_AROUND = np.ones((3, 3), np.uint8)


def decode_ground_truth(data: bytes, limits: Limits) -> Mask:
    """Decode a ground-truth mask, (H, W) uint8: the transparency of a picture that has some, else its grey levels.

    Raises:
        DecodeError: The bytes are not an image; or a colour image without transparency, or labels (0, 1, 2, …) instead of
            opacity; or grey levels and transparency contradict each other.
    """
    pixels, stored = decode(data, limits), decode_stored(data, limits)
    mask = _grey(pixels) if stored is None or stored.ndim == 2 else _of_layers(stored)
    _check_levels(stored if stored is not None and stored.ndim == 2 else mask, is_exact=sniff(data) in LOSSLESS)
    if not mask.any() and (stored is None or stored.ndim == 3) and has_deep_samples(data):
        raise DecodeError("its 16-bit samples are black or nearly so, as in a label file; save it as a grey mask of 8 bits")
    return mask


def _of_layers(stored: npt.NDArray[np.uint8]) -> Mask:
    """Return the mask of (H, W, 4) RGBA: the transparency, or the grey levels if all pixels are equally opaque."""
    colours, alpha = stored[..., :3], np.ascontiguousarray(stored[..., 3])
    if alpha.min() == alpha.max():
        grey = _grey(colours)
        if not alpha.any() and grey.any() and not _is_mask(grey):
            raise DecodeError("it is completely transparent, but not black; save it as a grey mask without transparency")
        return grey
    if _is_grey(colours) and _is_mask(colours[..., 0][alpha > 127]):
        raise DecodeError("its grey levels and its transparency are two different masks; save one of them")
    return alpha


def _is_grey(colours: npt.NDArray[np.uint8]) -> bool:
    return bool((colours.max(2) - colours.min(2) <= COLOUR_LEVELS).all())


def _grey(colours: npt.NDArray[np.uint8]) -> Mask:
    if not _is_grey(colours):
        raise DecodeError("it is a colour picture; save it as a grey mask, 0 for background and 255 for the object")
    return np.ascontiguousarray(colours[..., 0])


def _is_mask(levels: npt.NDArray[np.uint8]) -> bool:
    """Return whether pixels of any shape are black in some places and white in others."""
    return bool((levels < COLOUR_LEVELS).mean() > SHARE and (levels > 255 - COLOUR_LEVELS).mean() > SHARE)


def _check_levels(mask: npt.NDArray[Any], *, is_exact: bool) -> None:
    """Refuse labels, (H, W) uint8 or uint16: numbers, also beside the white borders of objects in Pascal VOC.

    Opacity between black and white is at edges, or has many levels. Labels fill areas. So do levels next to black in lossy
    files, and in those that were saved again from one; but then hardly a pixel is black.
    """
    white = np.iinfo(mask.dtype).max
    levels = np.flatnonzero(_histogram(mask))
    highest = int(levels[-1])
    if 0 < highest < (SOFT if len(levels) <= LABELS else HALF) * white:
        raise DecodeError(f"its highest level is {highest} of {white}, as in a label file; save it with {white} for the object")
    has_black = (mask == 0).mean() >= BACKGROUND
    if not (is_exact and has_black) or len(levels) > LABELS or np.gcd.reduce(levels) % GREY_STEP == 0:
        return
    is_between = (mask > 0) & (mask < SOFT * white)
    flat = mask[is_between & (cv2.erode(mask, _AROUND) == cv2.dilate(mask, _AROUND))]
    are_numbers = bool((levels[levels < white] <= LABELS).all())
    if flat.size > (mask > 0).sum() * (SHARE if are_numbers else 0.5):
        level = int(_histogram(flat).argmax())
        raise DecodeError(f"its level {level} of {white} fills areas, as in a label file; save it with {white} for the object")


def _histogram(levels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Count the levels of uint8 or uint16, without the copy as int64 that NumPy needs."""
    bins = np.iinfo(levels.dtype).max + 1
    return np.asarray(cv2.calcHist([levels], [0], None, [bins], [0, bins]), np.float32).ravel()
