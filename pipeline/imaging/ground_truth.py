"""Decode ground-truth masks of any origin: grey pictures, 0 background, 255 object, opacity between."""

from __future__ import annotations

import numpy as np

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode
from pipeline.types import Mask

COLOUR_LEVELS = 8
"""Largest difference between the channels of a JPEG's grey."""


def decode_ground_truth(data: bytes, limits: Limits) -> Mask:
    """Decode a ground-truth mask, (H, W) uint8.

    Raises:
        DecodeError: The bytes are not an image, or are a colour image or labels (0 and 1) instead of opacity.
    """
    pixels = decode(data, limits)
    mask = pixels[..., 0]
    for channel in (1, 2):
        other = pixels[..., channel]
        if (np.maximum(mask, other) - np.minimum(mask, other) > COLOUR_LEVELS).any():
            raise DecodeError("it is a colour picture; save it as a grey mask, 0 for background and 255 for the object")
    if mask.max() == 1:
        raise DecodeError("its highest level is 1 of 255, as in a label file; save it with 255 for the object")
    return np.ascontiguousarray(mask)
