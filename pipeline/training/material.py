"""Objects with exact alpha, and photos to put behind them.

Two Parquet files: ``objects/objects.parquet`` (``object_id``, ``licence``, ``rgba`` as WebP bytes) and
``backgrounds/backgrounds.parquet`` (``background_id``, ``image`` as JPEG bytes). The id alone decides whether an object or a
photo is for training or held out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.types import Pixels

Split = Literal["train", "held_out"]

PERMISSIVE = ("MIT",)
"""Licences of objects that the bundled weights may be trained on."""

HELD_OUT_OF = 5
"""One id in so many is held out."""


@dataclass(frozen=True)
class Material:
    """Encoded objects and photos by split."""

    objects: dict[Split, list[bytes]]
    photos: dict[Split, list[bytes]]

    @classmethod
    def read(cls, data: Path, *, licences: Sequence[str] | None = None) -> Material:
        """Read everything below a folder.

        Args:
            data: Folder with ``objects/`` and ``backgrounds/``.
            licences: Licences of the objects to use; None for all.

        Raises:
            ConfigError: A file does not exist.
        """
        paths = data / "objects" / "objects.parquet", data / "backgrounds" / "backgrounds.parquet"
        for path in paths:
            if not path.exists():
                raise ConfigError(
                    f"{path} does not exist; name a folder with objects/objects.parquet and backgrounds/backgrounds.parquet"
                )
        objects = pq.read_table(paths[0], columns=["object_id", "licence", "rgba"]).to_pylist()
        photos = pq.read_table(paths[1], columns=["background_id", "image"]).to_pylist()
        allowed = [row for row in objects if licences is None or row["licence"] in licences]
        return cls(
            _split({row["object_id"]: row["rgba"] for row in allowed}),
            _split({row["background_id"]: row["image"] for row in photos}),
        )

    def sha256(self) -> str:
        """Return a hash of all objects and photos."""
        digest = hashlib.sha256()
        for part in (self.objects, self.photos):
            for split, some in part.items():
                digest.update(f"{split} {len(some)}\n".encode())
                for one in some:
                    digest.update(hashlib.sha256(one).digest())
        return digest.hexdigest()

    def held_out(self) -> Material:
        """Return what is held out in place of what training uses, for pictures that no training has seen."""
        return Material({"train": self.objects["held_out"], "held_out": []}, {"train": self.photos["held_out"], "held_out": []})

    def object(self, rng: np.random.Generator, split: Split) -> npt.NDArray[np.float32]:
        """Draw an object: (h, w, 4) float32 in [0, 1], straight colours."""
        data = self.objects[split][int(rng.integers(len(self.objects[split])))]
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), np.float32) / np.float32(255)

    def background(self, rng: np.random.Generator, split: Split, side: int) -> Pixels:
        """Draw a square of a photo, mirrored half of the time: (side, side, 3) uint8."""
        data = self.photos[split][int(rng.integers(len(self.photos[split])))]
        photo = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.uint8)
        largest = min(photo.shape[:2])
        crop = int(rng.uniform(0.4, 1.0) * largest)
        top, left = (int(rng.integers(length - crop + 1)) for length in photo.shape[:2])
        square = photo[top : top + crop, left : left + crop]
        resized = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if crop > side else cv2.INTER_CUBIC)
        return np.asarray(resized[:, ::-1] if rng.random() < 0.5 else resized, np.uint8)

    def texture(
        self, rng: np.random.Generator, split: Split, side: int, near: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Make an object's colours from a colour (close to ``near`` (3,) if given) and a photo's structure.

        Returns:
            (side, side, 3) float32 in [0, 255].
        """
        photo = self.background(rng, split, side).astype(np.float32)
        detail = photo - cv2.GaussianBlur(photo, (0, 0), 24)
        shade = cv2.resize(rng.uniform(-1, 1, (4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        colour = (rng.uniform(10, 245, 3) if near is None else near + rng.normal(0, 25, 3)).astype(np.float32)
        texture = colour + rng.uniform(0, 0.9) * detail + rng.uniform(0, 45) * shade[..., None]
        return np.asarray(np.clip(texture, 0, 255), np.float32)


def transform(
    rgba: npt.NDArray[np.float32], scale: float, angle: float, centre: npt.NDArray[np.float64], side: int, interpolation: int
) -> npt.NDArray[np.float32]:
    """Scale and turn straight RGBA (h, w, 4) around a point of an empty canvas, and return it premultiplied (side, side, 4)."""
    middle = rgba.shape[1] / 2, rgba.shape[0] / 2
    matrix = cv2.getRotationMatrix2D(middle, float(angle), float(scale))
    matrix[:, 2] += centre - middle
    premultiplied = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2)
    return np.asarray(cv2.warpAffine(premultiplied, matrix, (side, side), flags=interpolation), np.float32)


def _split(by_id: dict[str, bytes]) -> dict[Split, list[bytes]]:
    splits: dict[Split, list[bytes]] = {"train": [], "held_out": []}
    for name in sorted(by_id):
        held_out = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % HELD_OUT_OF == 0
        splits["held_out" if held_out else "train"].append(by_id[name])
    return splits
