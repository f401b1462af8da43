"""Animations whose header claims more pixels than are allowed are refused before a decoder allocates them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging import animation
from pipeline.imaging.animation import animation_frames, is_animation

SIDE = 16_383


def animated(form: str) -> bytearray:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, form, save_all=True, append_images=frames[1:], duration=100)
    return bytearray(stream.getvalue())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The formats that Pillow has opened."""
    forms: list[str] = []
    for plugin, name in ((animation.WebPImagePlugin, "WebPImageFile"), (animation.GifImagePlugin, "GifImageFile")):
        real: Any = getattr(plugin, name)
        monkeypatch.setattr(plugin, name, lambda data, real=real, name=name: (forms.append(name), real(data))[1])
    yield forms


@pytest.mark.parametrize("form", ["WebP", "GIF"])
def test_the_size_is_compared_before_the_file_is_opened(form: str, opened: list[str]) -> None:
    data = animated(form)
    assert is_animation(bytes(data), Limits()) and len(opened) == 1
    if form == "WebP":
        data[24:30] = (SIDE - 1).to_bytes(3, "little") * 2
    else:
        data[6:10] = SIDE.to_bytes(2, "little") * 2
    limits = Limits(max_pixels=1_000_000)
    with pytest.raises(DecodeError, match=rf"{SIDE:,} wide and {SIDE:,} high, .* limits\.max_pixels allows 1,000,000"):
        next(animation_frames(bytes(data), limits))
    assert not is_animation(bytes(data), limits)
    assert len(opened) == 1
