"""What scenes are made of: objects with exact alpha, and photos to put behind them.

Two Parquet files (``objects/objects.parquet``: ``object_id``, ``licence``, ``rgba`` as WebP bytes;
``backgrounds/backgrounds.parquet``: ``background_id``, ``image`` as JPEG bytes). Every object and every
photo is either for tuning or held out, by its id alone.
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

Part = Literal["tuning", "held_out"]

HELD_OUT_OF = 5
"""One id in so many is held out."""


@dataclass(frozen=True)
class Material:
    """Encoded objects and photos by part; decoded as they are drawn."""

    objects: dict[Part, list[bytes]]
    photos: dict[Part, list[bytes]]

    @classmethod
    def read(cls, data: Path, *, licences: Sequence[str] | None = None) -> Material:
        """All that lies below a folder.

        Args:
            licences: of the objects; None for all. What is shipped is trained on permissive ones alone.

        Raises:
            ConfigError: the files aren't there.
        """
        paths = data / "objects" / "objects.parquet", data / "backgrounds" / "backgrounds.parquet"
        for path in paths:
            if not path.exists():
                raise ConfigError(
                    f"{path} isn't there; name a folder that has objects/objects.parquet and backgrounds/backgrounds.parquet"
                )
        objects = pq.read_table(paths[0], columns=["object_id", "licence", "rgba"]).to_pylist()
        photos = pq.read_table(paths[1], columns=["background_id", "image"]).to_pylist()
        chosen = [row for row in objects if licences is None or row["licence"] in licences]
        return cls(
            _parted({row["object_id"]: row["rgba"] for row in chosen}),
            _parted({row["background_id"]: row["image"] for row in photos}),
        )

    def object(self, rng: np.random.Generator, part: Part) -> npt.NDArray[np.float32]:
        """(h, w, 4) float32 in [0, 1], straight colours."""
        drawn = self.objects[part][int(rng.integers(len(self.objects[part])))]
        return np.asarray(Image.open(io.BytesIO(drawn)).convert("RGBA"), np.float32) / np.float32(255)

    def background(self, rng: np.random.Generator, part: Part, side: int) -> Pixels:
        """(side, side, 3) uint8: a square of a photo, mirrored at times."""
        photo = self._photo(rng, part)
        largest = min(photo.shape[:2])
        crop = int(rng.uniform(0.4, 1.0) * largest)
        top, left = (int(rng.integers(length - crop + 1)) for length in photo.shape[:2])
        square = photo[top : top + crop, left : left + crop]
        resized = cv2.resize(square, (side, side), interpolation=cv2.INTER_AREA if crop > side else cv2.INTER_CUBIC)
        return np.asarray(resized[:, ::-1] if rng.random() < 0.5 else resized, np.uint8)

    def texture(
        self, rng: np.random.Generator, part: Part, side: int, near: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """(side, side, 3) float32 in [0, 255]: colours of an object that is drawn: one with some structure of a photo in it.

        Args:
            near: about this colour (3,), or any.
        """
        photo = self.background(rng, part, side).astype(np.float32)
        detail = photo - cv2.GaussianBlur(photo, (0, 0), 24)
        shade = cv2.resize(rng.uniform(-1, 1, (4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        colour = (rng.uniform(10, 245, 3) if near is None else near + rng.normal(0, 25, 3)).astype(np.float32)
        found = colour + rng.uniform(0, 0.9) * detail + rng.uniform(0, 45) * shade[..., None]
        return np.asarray(np.clip(found, 0, 255), np.float32)

    def _photo(self, rng: np.random.Generator, part: Part) -> Pixels:
        drawn = self.photos[part][int(rng.integers(len(self.photos[part])))]
        return np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB"), np.uint8)


def _parted(by_id: dict[str, bytes]) -> dict[Part, list[bytes]]:
    parts: dict[Part, list[bytes]] = {"tuning": [], "held_out": []}
    for name in sorted(by_id):
        held_out = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % HELD_OUT_OF == 0
        parts["held_out" if held_out else "tuning"].append(by_id[name])
    return parts
