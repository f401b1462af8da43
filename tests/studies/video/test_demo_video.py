"""``make demo-video``: a ten-second clip of bundled photos, seen by a moving camera and cut out with its sound; a poster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import write_clip
from PIL import Image

from pipeline.imaging.sheet import checkerboard
from pipeline.paths import EXAMPLES

PHOTOS = ("teapot", "suitcase", "bicycle")
FRAMES, RATE = 84, 25
"""Frames per photo, and frames per second."""
WIDTH, HEIGHT = 640, 480
SHOWN = (8, 42, 76)
"""Frames of each photo on the poster."""


def filmed(photo: np.ndarray, number: int) -> list[np.ndarray]:
    """Return what a camera sees that is held by hand, and that moves to the right and nearer: (HEIGHT, WIDTH, 3) uint8 each."""
    rng = np.random.default_rng(number)
    shake = np.cumsum(rng.normal(0, 0.4, (FRAMES, 2)), 0)
    shake -= np.linspace(shake[0], shake[-1], FRAMES)
    height, width = photo.shape[:2]
    fit = min(width / WIDTH, height / HEIGHT)
    made = []
    for frame, (x, y) in enumerate(shake):
        along = frame / (FRAMES - 1)
        scale = fit * (1 - 0.12 * along)
        left = (width - WIDTH * scale) * (0.3 + 0.4 * along) + x
        top = (height - HEIGHT * scale) * 0.5 + y
        matrix = np.array([[scale, 0, left], [0, scale, top]], np.float64)
        flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
        made.append(cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=flags, borderMode=cv2.BORDER_REFLECT_101))
    return made


def read(path: Path) -> tuple[list[np.ndarray], list[float], int]:
    """Return the frames (H, W, 4) uint8, their times in seconds, and the number of sound tracks."""
    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        decoder = av.CodecContext.create("libvpx-vp9" if path.suffix == ".webm" else stream.codec_context.name, "r")
        decoder.extradata = stream.codec_context.extradata
        frames = [frame for packet in clip.demux(stream) for frame in decoder.decode(packet if packet.size else None)]
        times = [float(frame.pts * stream.time_base) for frame in frames]
        return [frame.to_ndarray(format="rgba") for frame in frames], times, len(clip.streams.audio)


def poster(before: list[np.ndarray], after: list[np.ndarray]) -> Image.Image:
    """Draw some frames over their cutouts, which lie on a checkerboard."""
    numbers = [start * FRAMES + shown for start in range(len(PHOTOS)) for shown in SHOWN]
    size = (WIDTH // 4, HEIGHT // 4)
    sheet = Image.new("RGB", (len(numbers) * (size[0] + 4) - 4, 2 * size[1] + 4), "white")
    for column, number in enumerate(numbers):
        ground = checkerboard(size)
        cutout = Image.fromarray(after[number]).resize(size, Image.Resampling.LANCZOS)
        ground.paste(cutout, mask=cutout.getchannel("A"))
        photo = Image.fromarray(before[number][..., :3]).resize(size, Image.Resampling.LANCZOS)
        for row, picture in enumerate((photo, ground)):
            sheet.paste(picture, (column * (size[0] + 4), row * (size[1] + 4)))
    return sheet


@pytest.mark.study
@pytest.mark.timeout(1800)
def test_the_demo_clip(results: Callable[[str], Path], matteline: str, bars: Any) -> None:
    folder = results("demo-video")
    photos = [np.asarray(Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")) for name in PHOTOS]
    frames = [frame for number, photo in enumerate(photos) for frame in filmed(photo, number)]
    times = [1000 * number // RATE for number in range(len(frames))]
    clip = write_clip(folder / "clip.mp4", frames, times_ms=times, pixel_format="yuv420p", sound=("aac",))
    subprocess.run([matteline, "cut", str(clip), "-o", str(folder / "clip.webm")], check=True)
    before, times_before, tracks_before = read(clip)
    after, times_after, tracks_after = read(folder / "clip.webm")
    poster(before, after).save(folder / "poster.jpg", quality=88)
    shares = np.array([frame[..., 3].mean() / 255 for frame in after])
    bars.at_most("frames lost", abs(len(before) - len(after)), 0)
    bars.at_most("largest difference of a frame's time (s)", float(np.abs(np.subtract(times_before, times_after)).max()), 0.002)
    bars.at_most("sound tracks lost", abs(tracks_before - tracks_after), 0)
    bars.at_least("smallest share of the object in a frame", float(shares.min()), 0.02)
    bars.at_most("largest share of the object in a frame", float(shares.max()), 0.6)
