from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.training.material import Material


def encode(image: Image.Image, kind: str, **settings: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **settings)
    return sink.getvalue()


@pytest.fixture(scope="session")
def material() -> Material:
    """Two objects and two photos per split, made from a seed."""
    rng = np.random.default_rng(0)
    objects, photos = [], []
    for number in range(4):
        canvas = Image.new("RGBA", (200, 180), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).ellipse((20, 20, 170, 150), (*rng.integers(0, 256, 3).tolist(), 255))
        objects.append(encode(canvas.resize((100, 90), Image.Resampling.BOX), "WEBP", lossless=True))
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        photos.append(encode(Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC), "JPEG", quality=90 + number))
    return Material({"train": objects[:2], "held_out": objects[2:]}, {"train": photos[:2], "held_out": photos[2:]})


@pytest.fixture(scope="session")
def disc_manifest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A factory of manifests of so many photos of bright discs on dark noise, with ground truth."""

    def make(count: int) -> Path:
        folder = tmp_path_factory.mktemp("discs")
        rng = np.random.default_rng(0)
        rows = []
        for number in range(count):
            height, width = (int(side) for side in rng.integers(90, 140, 2))
            image = rng.integers(0, 90, (height, width, 3), np.uint8)
            mask = np.zeros((height, width), np.uint8)
            centre = (int(rng.integers(40, width - 40)), int(rng.integers(40, height - 40)))
            cv2.circle(mask, centre, int(rng.integers(18, 38)), 255, -1)
            image[mask > 0] = rng.integers(150, 255, 3)
            cv2.imwrite(str(folder / f"{number}.png"), image)
            cv2.imwrite(str(folder / f"{number}.mask.png"), mask)
            rows.append([f"item{number}", f"{number}.png", f"{number}.mask.png"])
        path = folder / "manifest.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["item_id", "image_uri", "truth_uri"], *rows])
        return path

    return make
