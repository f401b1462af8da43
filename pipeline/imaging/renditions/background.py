"""Pictures that stand behind the object: decoded and fitted once a process, not once an item."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from pipeline.imaging.decode import decode
from pipeline.imaging.validate import BOUNDLESS
from pipeline.types import Pixels


@lru_cache(maxsize=4)
def backdrop(data: bytes, height: int, width: int) -> Pixels:
    """The picture in these bytes, covering a frame: as small as it can be, its middle shown; (height, width, 3), read-only.

    Raises:
        DecodeError: the bytes are no picture.
    """
    image = _decoded(data)
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    down, across = min(rows, max(1, round(height / scale))), min(columns, max(1, round(width / scale)))
    top, left = (rows - down) // 2, (columns - across) // 2
    seen = image[top : top + down, left : left + across]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    fitted = np.asarray(cv2.resize(seen, (width, height), interpolation=how), np.uint8)
    fitted.setflags(write=False)
    return fitted


@lru_cache(maxsize=2)
def _decoded(data: bytes) -> Pixels:
    return decode(data, BOUNDLESS)
