"""Photos of a camera's size out of small ones: enlarged, with grain, so that they weigh what such files weigh."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps

GRAIN = 4.0
"""Standard deviation in levels: about 0.3 bytes a pixel at quality 90."""

QUALITY = 90


def small_photos(data: Path) -> Iterator[Image.Image]:
    """The evaluation photos of the shared data, the largest first."""
    table = pq.read_table(data / "data" / "eval" / "photos.parquet", columns=["image", "width", "height"])
    rows = sorted(table.to_pylist(), key=lambda row: -row["width"] * row["height"])
    return (Image.open(io.BytesIO(row["image"])).convert("RGB") for row in rows)


def write_photos(photos: Iterator[Image.Image], folder: Path, size: tuple[int, int], count: int) -> Path:
    """So many JPEGs of this (width, height) in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in zip(range(count), photos, strict=False):
        enlarged(photo, size, number).save(folder / f"photo-{number:03}.jpg", quality=QUALITY)
    return folder


def enlarged(photo: Image.Image, size: tuple[int, int], seed: int) -> Image.Image:
    """The middle of a photo at (width, height)."""
    pixels = np.asarray(ImageOps.fit(photo, size, Image.Resampling.LANCZOS), np.float32)
    grain = np.random.default_rng(seed).standard_normal(pixels.shape[:2], np.float32)[..., None] * GRAIN
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
