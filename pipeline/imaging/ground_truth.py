"""Decode ground-truth masks of any origin: grey pictures or transparency, 0 background, 255 object, opacity between."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode, decode_alpha
from pipeline.types import Mask

COLOUR_LEVELS = 8
"""Largest difference between the channels of a JPEG's grey."""

SHARE = 0.01
"""Share of black and of white pixels above which grey levels are a mask of their own."""

LABELS, SOFT_LEVEL = 32, 250
"""A picture of at most so many levels whose highest one is below the second number holds labels, and not opacity."""


def decode_ground_truth(data: bytes, limits: Limits) -> Mask:
    """Decode a ground-truth mask, (H, W) uint8: the transparency of a picture that has some, else its grey levels.

    Raises:
        DecodeError: The bytes are not an image; or a colour image without transparency, or labels (0 and 1) instead of opacity;
            or grey levels and transparency contradict each other.
    """
    pixels = decode(data, limits)
    alpha = decode_alpha(data, limits)
    is_grey = bool((pixels.max(2) - pixels.min(2) <= COLOUR_LEVELS).all())
    if alpha is not None and alpha.min() < alpha.max():
        if is_grey and _is_mask(pixels[..., 0][alpha > 127]):
            raise DecodeError("its grey levels and its transparency are two different masks; save one of them")
        return _checked(alpha)
    if not is_grey:
        raise DecodeError("it is a colour picture; save it as a grey mask, 0 for background and 255 for the object")
    return _checked(np.ascontiguousarray(pixels[..., 0]))


def _is_mask(levels: npt.NDArray[np.uint8]) -> bool:
    """Return whether opaque pixels (N,) are black in some places and white in others."""
    return bool((levels < COLOUR_LEVELS).mean() > SHARE and (levels > 255 - COLOUR_LEVELS).mean() > SHARE)


def _checked(mask: Mask) -> Mask:
    highest = int(mask.max())
    if 0 < highest < SOFT_LEVEL and len(np.unique(mask)) <= LABELS:
        raise DecodeError(f"its highest level is {highest} of 255, as in a label file; save it with 255 for the object")
    return mask
