from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.training.material import Material


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **settings)
    return sink.getvalue()


@pytest.fixture(scope="session")
def material() -> Material:
    """Two objects and two photos for each part, made from a seed."""
    rng = np.random.default_rng(0)
    objects, photos = [], []
    for number in range(4):
        canvas = Image.new("RGBA", (200, 180), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).ellipse((20, 20, 170, 150), (*rng.integers(0, 256, 3).tolist(), 255))
        objects.append(encoded(canvas.resize((100, 90), Image.Resampling.BOX), "WEBP", lossless=True))
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        photos.append(encoded(Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC), "JPEG", quality=90 + number))
    return Material({"tuning": objects[:2], "held_out": objects[2:]}, {"tuning": photos[:2], "held_out": photos[2:]})
