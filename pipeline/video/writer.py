"""Write frames and sound to a file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config.job import Limits
from pipeline.errors import DecodeError, WriteError
from pipeline.types import Size
from pipeline.video.colour import BT709, LIMITED, Converter
from pipeline.video.forms import Form
from pipeline.video.reader import Facts
from pipeline.video.sound import Sound, Track
from pipeline.video.span import ALL, Span

CLOCK = Fraction(1, 90_000)
"""Finest unit of timestamps that every encoder takes."""


LARGEST_SIDE = 65_535
"""Of a frame in VP9."""


@dataclass
class Written:
    """Facts to compare with the file that is read back: seconds and mean alpha (0 to 255) per frame, and sound tracks."""

    size: Size
    seconds: list[float] = field(default_factory=list)
    alpha: list[float] | None = None
    tracks: tuple[Track, ...] = ()
    empty: list[int] = field(default_factory=list)
    """Positions of sound tracks without sound, which a container may leave out."""


def _check_square(width: int, height: int, form: Form, limits: Limits) -> None:
    """Refuse frames that are too large with square pixels: a source may have pixels that are a thousand times as wide as high.

    Raises:
        DecodeError: They are.
    """
    if width > LARGEST_SIDE or width * height > limits.max_pixels:
        raise DecodeError(
            f"with square pixels, as {form.name} has them, frames would have {width:,} x {height:,} pixels; {form.name} allows "
            f"{LARGEST_SIDE:,} per side, and limits.max_pixels {limits.max_pixels:,}; write MOV or MP4, which keep the shape"
        )


class VideoWriter:
    """Writes a video. Call ``add`` for every frame, then ``finish``. Use as a context manager.

    Args:
        path: The file.
        form: Its form, one with a container.
        facts: The source's: size, times, rate, shape of its pixels.
        clear: Frames are RGBA and stay transparent.
        sound: The source, opened once more for its sound; None for none.
        limits: Of the source, and of scaled frames.
        span: The part of the sound that belongs to the frames.

    Raises:
        WriteError: The encoder refuses the video.
        DecodeError: Frames with square pixels would be above the limits.
    """

    def __init__(
        self, path: Path, form: Form, facts: Facts, *, clear: bool, sound: BinaryIO | None, limits: Limits, span: Span = ALL
    ) -> None:
        self.form, self.facts = form, facts
        self._pad = tuple(side % 2 if form.even else 0 for side in facts.size)
        height, width = (side + extra for side, extra in zip(facts.size, self._pad, strict=True))
        self.notes = [f"{width} x {height}: a pixel is added, because H.264 needs even sides"] if any(self._pad) else []
        self._aspect = facts.aspect
        if form.square and facts.aspect != 1:
            width, self._aspect = max(1, round(width * facts.aspect)), Fraction(1)
            _check_square(width, height, form, limits)
            self.notes.append(f"{width} x {height}: scaled, because {form.name} has square pixels")
        self.written = Written(Size(height, width), alpha=[] if clear else None)
        self._pixel_format = form.clear if clear else form.opaque
        self._last_s = 0.0  # duration of the last frame
        self._converter = Converter()
        self._sound: Sound | None = None
        # The prefix keeps FFmpeg from reading "name:" as a protocol.
        self._container: Any = av.open(f"file:{path}", "w", format=form.container, options=dict(form.muxer))
        try:
            self._stream = self._add_stream(width, height)
            if sound is not None:
                self._sound = Sound(sound, self._container, form, limits, span)
                self.written.tracks = tuple(self._sound.written)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_stream(self, width: int, height: int) -> Any:
        options = dict(self.form.options) | ({"auto-alt-ref": "0"} if self._pixel_format == "yuva420p" else {})
        stream = self._container.add_stream(self.form.encoder, rate=self.facts.rate, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, self._pixel_format
        context.time_base = stream.time_base = max(self.facts.time_base, CLOCK)  # or a variable rate is lost
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED
        context.sample_aspect_ratio = stream.sample_aspect_ratio = self._aspect
        context.thread_type = "AUTO"
        return stream

    def add(self, pixels: npt.NDArray[np.uint8], pts: int, duration: int) -> None:
        """Write a frame.

        Args:
            pixels: (H, W, 4) RGBA if ``clear``, else (H, W, 3) RGB; uint8.
            pts: Its time in the source's unit.
            duration: As in ``Frame``.

        Raises:
            WriteError: The encoder or the disk refuses it.
            DecodeError: The source's sound is encrypted.
        """
        if any(self._pad):
            pixels = np.pad(pixels, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        if pixels.shape[1] != self.written.size.width:
            pixels = cv2.resize(pixels, self.written.size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        frame = self._converter.to_yuv(np.ascontiguousarray(pixels), self._pixel_format)
        unit = self._stream.codec_context.time_base
        scale = self.facts.time_base / unit
        frame.pts, frame.time_base, frame.duration = round(pts * scale), unit, round(duration * scale)
        seconds, self._last_s = float(pts * self.facts.time_base), float(duration * self.facts.time_base)
        self.written.seconds.append(seconds)
        if self.written.alpha is not None:
            self.written.alpha.append(float(pixels[..., 3].mean()))
        self._mux(frame, seconds)

    def finish(self) -> Written:
        """Write the end of the file.

        Raises:
            WriteError: The disk refuses it.
            DecodeError: The source's sound is encrypted.
        """
        self._mux(None, float("inf"))
        self.written.empty = [] if self._sound is None else self._sound.empty
        if self._sound is not None and (seconds := self.written.seconds):
            self.notes += self._sound.remarks(seconds[0], seconds[-1] + self._last_s)
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise WriteError(f"the video can't be written: {error}") from error
        return self.written

    def close(self) -> None:
        """Close the file without finishing it, if it is open, and the encoders."""
        if self._sound is not None:
            self._sound.close()
        self._stream, self._converter = None, Converter()
        with suppress(av.error.FFmpegError, OSError):  # what is left of it is deleted
            self._container.close()

    def _mux(self, frame: Any, until_s: float) -> None:
        try:
            packets = self._stream.encode(frame)
            for packet in packets:
                self._container.mux(packet)
            for packet in self._sound.packets(until_s) if self._sound else ():
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise WriteError(f"the video can't be written: {error}") from error
