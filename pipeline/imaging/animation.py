"""Read all frames of an animated GIF or WebP."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import count, islice
from typing import Any, NamedTuple

from PIL import GifImagePlugin, WebPImagePlugin

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.container import canvas_size, check_gif, check_size
from pipeline.imaging.picture import upright_rgb
from pipeline.imaging.sniff import sniff
from pipeline.types import Pixels

SHORTEST_MS = 11
"""Frames that are to be shown for less are shown for ``USUAL_MS``, as in browsers."""

USUAL_MS = 100


class AnimationFrame(NamedTuple):
    """A frame: (H, W, 3) uint8 over white, and how long it is shown."""

    pixels: Pixels
    duration_ms: int


def is_animation(data: bytes, limits: Limits) -> bool:
    """Return whether bytes are a GIF or WebP of several frames. Damaged ones count as none."""
    try:
        return len(list(islice(animation_frames(data, limits), 2))) > 1
    except DecodeError:
        return False


def animation_frames(data: bytes, limits: Limits) -> Iterator[AnimationFrame]:
    """Yield the frames in order. A picture that does not move has one.

    Raises:
        DecodeError: The bytes are neither GIF nor WebP, damaged, cut off, or above the limits.
    """
    form = sniff(data)
    try:
        if form == "GIF":
            check_gif(data)
        elif form != "WebP":
            raise DecodeError(f"this is a {form}, not an animated GIF or WebP")
        if size := canvas_size(data, form):  # of which Pillow allocates several frames on opening
            check_size(size, limits)
        image: Any = (GifImagePlugin.GifImageFile if form == "GIF" else WebPImagePlugin.WebPImageFile)(io.BytesIO(data))
        check_size(image.size, limits)
        for number in count():
            try:
                image.seek(number)
            except EOFError:
                return
            image.load()
            shown_ms = round(image.info.get("duration", 0))
            yield AnimationFrame(upright_rgb(image.copy()), shown_ms if shown_ms >= SHORTEST_MS else USUAL_MS)
    except DecodeError as error:
        raise DecodeError(f"this {form} can't be used: {error}") from error.__cause__
    except Exception as error:  # decoders raise anything on damaged bytes
        raise DecodeError(f"this {form} is damaged or cut off") from error
