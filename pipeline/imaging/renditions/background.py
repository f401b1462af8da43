"""Background pictures, decoded and resized once per process and not once per item."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np

from pipeline.imaging.decode import decode
from pipeline.imaging.validate import NO_LIMITS
from pipeline.types import Pixels


@lru_cache(maxsize=4)
def fit_background(data: bytes, height: int, width: int, aspect: Fraction = Fraction(1)) -> Pixels:
    """Decode a picture, crop it centrally to the frame's aspect and resize it; (height, width, 3), read-only.

    Args:
        data: A picture file.
        height: Of the frame.
        width: Of the frame.
        aspect: Width of the frame's pixels divided by their height.

    Raises:
        DecodeError: The bytes are not a supported picture.
    """
    image = _decode(data)
    rows, columns = image.shape[:2]
    shown = float(width * aspect)
    scale = max(height / rows, shown / columns)
    down, across = min(rows, max(1, round(height / scale))), min(columns, max(1, round(shown / scale)))
    top, left = (rows - down) // 2, (columns - across) // 2
    cropped = image[top : top + down, left : left + across]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted = np.asarray(cv2.resize(cropped, (width, height), interpolation=interpolation), np.uint8)
    fitted.setflags(write=False)
    return fitted


@lru_cache(maxsize=2)
def _decode(data: bytes) -> Pixels:
    return decode(data, NO_LIMITS)
