"""Photos and masks of the tests of data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (30, 40)

Write = Callable[..., None]


def photo(path: Path, seed: int = 0) -> str:
    """Write a photo unless it exists, and return its SHA-256."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(path, format="JPEG" if path.suffix in (".jpg", "") else None)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mask(*corners: int, alpha: int = 255) -> np.ndarray:
    """Return a mask with a rectangle: x0, y0, x1, y1."""
    x0, y0, x1, y1 = corners
    made = np.zeros(SIZE, np.uint8)
    made[y0:y1, x0:x1] = alpha
    return made
