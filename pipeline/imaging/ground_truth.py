"""True masks as strangers made them: grey pictures, 0 background, 255 object, what lies between is opacity."""

from __future__ import annotations

import numpy as np

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode
from pipeline.types import Mask

COLOUR_LEVELS = 8
"""A JPEG's grey may differ by so much between its channels."""


def decode_ground_truth(data: bytes, limits: Limits) -> Mask:
    """The true mask in these bytes, (H, W) uint8.

    Raises:
        DecodeError: the bytes are no image, or one of colours, or labels that nobody could tell from opacity (0 and 1).
    """
    pixels = decode(data, limits)
    mask = pixels[..., 0]
    for channel in (1, 2):
        other = pixels[..., channel]
        if (np.maximum(mask, other) - np.minimum(mask, other) > COLOUR_LEVELS).any():
            raise DecodeError("it is a picture in colours; save it as a grey mask, 0 for background and 255 for the object")
    if mask.max() == 1:
        raise DecodeError("its highest level is 1 of 255, as in a file of labels; save it with 255 for the object")
    return np.ascontiguousarray(mask)
