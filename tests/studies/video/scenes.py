"""Synthetic clips with exact alpha, from a seed: an object that moves, turns and is occluded, before a moving background."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH = 288, 384
FRAMES = 16

KINDS = ("moving", "turning", "growing", "occluded", "fast camera", "shaking", "noise", "compressed", "two objects", "dark")
"""What is difficult in each clip."""

WITH_ANOTHER = frozenset({"moving", "shaking", "noise", "compressed", "two objects", "dark"})
"""Kinds with a second object that might be taken for the first."""


class Scene(NamedTuple):
    """A clip: (H, W, 3) uint8 frames, and the true alpha, (H, W) uint8 each."""

    kind: str
    frames: list[npt.NDArray[np.uint8]]
    alphas: list[npt.NDArray[np.uint8]]


def _pictures(path: Path, column: str, numbers: list[int], where: str | None = None) -> list[Image.Image]:
    table = pq.read_table(path)
    if where:
        table = table.filter(table[where])
    return [Image.open(io.BytesIO(table[column][int(number % len(table))].as_py())) for number in numbers]


def make_scenes(data: Path, seed: int = 1) -> list[Scene]:
    """Return one clip of every kind, from objects and backgrounds below ``data``."""
    rng = np.random.default_rng(seed)
    objects = _pictures(data / "objects/objects.parquet", "rgba", list(rng.integers(0, 1949, 2 * len(KINDS))))
    grounds = _pictures(data / "backgrounds/backgrounds.parquet", "image", list(rng.integers(0, 108, len(KINDS))))
    return [
        _scene(kind, np.asarray(one.convert("RGBA")), np.asarray(other.convert("RGBA")), np.asarray(ground.convert("RGB")), rng)
        for kind, one, other, ground in zip(KINDS, objects[::2], objects[1::2], grounds, strict=True)
    ]


def _scene(
    kind: str, one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8], ground: npt.NDArray[np.uint8], rng: np.random.Generator
) -> Scene:
    ground = cv2.resize(ground, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_AREA)
    pan = {"fast camera": 14.0, "shaking": 0.0}.get(kind, 2.0)
    start, speed = np.array([WIDTH * 0.38, HEIGHT * 0.5]), np.array([5.0, rng.uniform(-1.5, 1.5)])
    frames, alphas = [], []
    for number in range(FRAMES):
        shake = rng.normal(0, 4, 2) if kind == "shaking" else np.zeros(2)
        angle = number * (6.0 if kind == "turning" else 0.8)
        size = 0.42 * (1 + 0.03 * number if kind == "growing" else 1)
        left, top = (int(v) for v in np.array([40 + pan * number, 60]) + shake * 2)
        picture = ground[top : top + HEIGHT, left : left + WIDTH].astype(np.float32)
        if kind in WITH_ANOTHER:  # it stands in the background, and moves with it
            picture, _ = _paste(picture, other, np.array([WIDTH * 0.85 - pan * number, HEIGHT * 0.35]) - shake * 2, 0.36, 0.0)
        picture, alpha = _paste(picture, one, start + number * speed + shake, size, angle)
        if kind == "occluded":
            picture, hidden = _paste(picture, other, np.array([WIDTH * (1.0 - 0.045 * number), HEIGHT * 0.62]), 0.35, 0.0)
            alpha = alpha * (1 - hidden)
        if kind == "dark":
            picture = picture * 0.2
        if kind == "noise":
            picture = picture + rng.normal(0, 22, picture.shape)
        frames.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
        alphas.append(np.rint(alpha * 255).astype(np.uint8))
    return Scene(kind, _compressed(frames) if kind == "compressed" else frames, alphas)


def _paste(
    picture: npt.NDArray[np.float32], rgba: npt.NDArray[np.uint8], centre: npt.NDArray[np.float64], share: float, angle: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Composite an object that is ``share`` of the height, turned by degrees. Returns the picture and the object's alpha."""
    scale = share * HEIGHT / max(rgba.shape[:2])
    small = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32)
    small[..., :3] *= small[..., 3:] / 255  # premultiplied, or edges get the colour of transparent pixels
    matrix = cv2.getRotationMatrix2D((small.shape[1] / 2, small.shape[0] / 2), angle, 1)
    matrix[:, 2] += centre - np.array([small.shape[1] / 2, small.shape[0] / 2])
    placed = cv2.warpAffine(small, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    alpha = placed[..., 3] / 255
    return picture * (1 - alpha[..., None]) + placed[..., :3], alpha


def _compressed(frames: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    """Encode with H.264 at a low rate, and decode."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "34"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    sink.seek(0)
    with av.open(sink) as source:
        return [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
