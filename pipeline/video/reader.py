"""Read a video's frames in order: upright, 8-bit sRGB, with their timestamps.

Files come from strangers: FFmpeg gets an open file and no name, so that it can't open another one, and may only use the
demuxers of ``container.FORMATS``. Counts and durations of headers are never relied on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.filter import Graph

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.animation import animation_frames
from pipeline.imaging.sniff import describe, sniff
from pipeline.types import Pixels, Size
from pipeline.video.awaited import Awaited
from pipeline.video.colour import Converter, check_colours
from pipeline.video.container import (
    codec_name,
    decode,
    decoder_of,
    is_encrypted,
    make_deinterlacer,
    open_container,
    passed,
    video_stream,
)
from pipeline.video.orientation import orientation_of

MISSING_S = 1.0
"""Seconds of a video that may be missing behind the last packet, by its header, before it counts as cut off."""

USUAL_RATE = Fraction(25)

EARLIER_S = (2.0, 20.0, math.inf)
"""Seconds before a frame from which decoding is tried if a container's index leads behind the frame; at last from the start."""


class Frame(NamedTuple):
    """A frame: (H, W, 3) uint8, upright; its time and how long it is shown (0: unknown), in units of ``Facts.time_base``."""

    pixels: Pixels
    pts: int
    duration: int


@dataclass(frozen=True)
class Facts:
    """Facts of a video, known after its first frame.

    Attributes:
        size: Size of the upright frames.
        time_base: Seconds per unit of timestamps.
        rate: Frames per second, about.
        aspect: Width of a pixel divided by its height, upright.
        frames: Number of frames by the header, 0 if it says none. May be wrong.
        seconds: Duration by the header, 0 if it says none. May be wrong.
        codec: FFmpeg's canonical name of the video codec, such as ``av1``, not ``libdav1d``.
        sound: Canonical names of the codecs of the sound tracks.
        first_pts: Time of the first frame.
    """

    size: Size
    time_base: Fraction
    rate: Fraction
    aspect: Fraction = Fraction(1)
    frames: int = 0
    codec: str = ""
    sound: tuple[str, ...] = ()
    first_pts: int = 0
    seconds: float = 0.0


class _SeekError(DecodeError):
    """The demuxer cannot go to a frame, and is where it was."""


class VideoReader:
    """Iterates once over the frames of a video. Use as a context manager.

    Args:
        file: An open file that can seek. It stays open.
        limits: ``max_pixels`` per frame; ``max_frames`` and ``max_seconds`` of what is yielded; ``max_bytes`` of animations.
        beat: Called for every frame that ``skip_before`` passes over.

    Raises:
        DecodeError: The file is no video, has no frame, is damaged, HDR or above a limit.
    """

    def __init__(self, file: BinaryIO, limits: Limits, beat: Callable[[], None] = lambda: None) -> None:
        self.limits, self._beat = limits, beat
        self.passed_pts: int | None = None
        """Time of the last frame that was passed over; None if none was."""
        self._before: int | None = None
        self._reached: float | None = None
        self._is_turned = self._is_taken = False
        self._converter = Converter()
        self._container: Any = None
        self._stream: Any = None
        head = file.read(4096)
        file.seek(0)
        try:
            form = sniff(head)
        except DecodeError:
            self._stream = self._open(file, head)
            self._frames: Iterator[Frame] = self._decoded(self._stream)
        else:
            if form not in {"GIF", "WebP"}:
                raise DecodeError(f"this is a picture ({form}), not a video; give it a picture's name, or give a video")
            self._frames = self._animation(file)
        try:
            self._first: Frame | None = next(self._frames, None)
        except BaseException:
            self.close()
            raise
        if self._first is None:
            self.close()
            raise DecodeError("this video has no frames")
        self.facts = self._describe(self._first)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the demuxer, the decoder and the converter. Not while another thread takes frames."""
        # Frames that are not taken refer to this reader, and would keep the decoder's threads until Python collects garbage.
        self._frames, self._first, self._stream = iter(()), None, None
        self._converter = Converter()  # it has threads, too
        if self._container is not None:
            self._container.close()
            self._container = None

    def skip_to(self, pts: int) -> None:
        """Go on from the frame at a time, which is one of the video's frames. Not for animations.

        Raises:
            DecodeError: The frame cannot be decoded.
        """
        self._seek(pts, before=pts)
        if self._first is None or self._first.pts != pts:
            raise DecodeError(f"this video has no frame at {float(pts * self.facts.time_base):.2f} s")

    def look_from(self, seconds: float) -> None:
        """Go on from a frame at or before a time, which counts from the first frame. Animations begin at their start.

        Raises:
            DecodeError: There is none that can be decoded.
        """
        if self._container is not None:
            self._seek(self.facts.first_pts + round(seconds / self.facts.time_base), before=None)

    def skip_before(self, pts: int) -> None:
        """Go on from the first frame at or behind a time. Frames before it are neither converted nor yielded.

        Raises:
            DecodeError: They cannot be decoded.
        """
        if self._first is None or self._first.pts >= pts:
            return
        self.passed_pts = self._first.pts
        try:
            if self._container is not None:
                self._seek(pts, before=pts)
                return
        except _SeekError:  # without an index, all frames are decoded
            self._first = next(self._frames, None)
        while self._first is not None and self._first.pts < pts:  # an animation
            self._beat()
            self.passed_pts = self._first.pts
            self._first = next(self._frames, None)

    def _seek(self, pts: int, before: int | None) -> None:
        """Go on from a frame at or before a time, if the container's index leads there; and pass over those before ``before``.

        Raises:
            DecodeError: It cannot be sought, or a frame cannot be decoded.
        """
        stream, self._before = self._stream, before
        failure, moved = None, False
        for early_s in (0.0, *EARLIER_S):
            start = self.facts.first_pts
            if early_s != math.inf:
                start = max(start, pts - round(early_s / self.facts.time_base))
            try:
                self._container.seek(start, stream=stream, backward=True)
            except av.error.FFmpegError as error:
                failure = error.with_traceback(None)  # it leads to this frame, and so to the decoder
                continue
            moved = True
            stream.codec_context.flush_buffers()
            self._frames, self._reached = self._decoded(stream), None
            self._first = next(self._frames, None)
            if self._has_reached(pts):
                return
        if failure is not None:
            kind = DecodeError if moved else _SeekError
            raise kind(f"this video has no frame at {float(pts * self.facts.time_base):.2f} s") from failure

    def _has_reached(self, pts: int) -> bool:
        return self._reached is not None and self._reached <= pts

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            DecodeError: The rest is damaged, cut off or above a limit; frames have different sizes.
        """
        assert not self._is_taken, "the frames can be taken once"
        self._is_taken = True
        frame, self._first = self._first, None
        if frame is None:  # all were passed over
            return
        start, last, count = frame.pts, frame.pts - 1, 0
        seconds = self.facts.time_base
        while frame is not None:
            count += 1
            if Size(*frame.pixels.shape[:2]) != self.facts.size:
                raise DecodeError(f"frame {count} has another size than the first one; split the video there")
            if count > self.limits.max_frames:
                raise DecodeError(f"the video has more than {self.limits.max_frames:,} frames (limits.max_frames)")
            if (frame.pts - start) * seconds > self.limits.max_seconds:
                raise DecodeError(f"the video is longer than {self.limits.max_seconds:g} s (limits.max_seconds)")
            last = max(frame.pts, last + 1)  # damaged files repeat timestamps or run backwards
            yield frame._replace(pts=last)
            frame = next(self._frames, None)

    def _describe(self, first: Frame) -> Facts:
        size = Size(*first.pixels.shape[:2])
        if self._container is None:
            return Facts(
                size, Fraction(1, 1000), Fraction(1000, max(1, first.duration)).limit_denominator(1000), codec="animation"
            )
        stream = self._stream
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        return Facts(
            size,
            stream.time_base,
            stream.average_rate or stream.guessed_rate or USUAL_RATE,
            1 / aspect if self._is_turned and aspect else aspect or Fraction(1),
            max(0, stream.frames),
            codec_name(stream.codec_context),
            tuple(codec_name(one.codec_context) for one in self._container.streams.audio),
            first.pts,
            max(0, self._container.duration or 0) / av.time_base,
        )

    def _open(self, file: BinaryIO, head: bytes) -> Any:
        """Return the demuxer.

        Raises:
            DecodeError: FFmpeg knows no video in it, or its header is above a limit.
        """
        try:
            container = open_container(file, self.limits)
        except av.error.FFmpegError as error:
            media = head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3"
            what = "damaged or cut off: its index is missing" if media else f"not a video: the bytes are {describe(head)}"
            raise DecodeError(f"this file is {what}; give an MP4, MOV, WebM, MKV, GIF or animated WebP file") from error
        self._container = container
        try:
            return self._checked(container)
        except BaseException:
            self.close()
            raise

    def _checked(self, container: Any) -> Any:
        stream = video_stream(container)
        if stream is None:
            what = "only sound" if container.streams.audio else "no video stream"
            raise DecodeError(f"this file has {what}; give a file with a video stream")
        if stream.codec_context is None:
            raise DecodeError("this video is encrypted, or its codec is unknown; convert it to H.264 first")
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > self.limits.max_pixels:
            raise DecodeError(
                f"frames have {stream.codec_context.width} x {stream.codec_context.height} pixels; "
                f"limits.max_pixels allows {self.limits.max_pixels:,}"
            )
        return stream

    def _decoded(self, stream: Any) -> Iterator[Frame]:
        """Yield the wanted frames from where the demuxer is."""
        step = max(1, round(1 / ((stream.average_rate or USUAL_RATE) * stream.time_base)))
        expected = 0
        for frame in self._progressive(stream):
            pts, duration = _times(frame, stream.time_base, expected)
            expected = pts + (duration or step)
            if not self._is_passed_over(frame, pts):
                yield self._made(frame, pts, duration)

    def _progressive(self, stream: Any) -> Iterator[Any]:
        """Demux and decode. Packets of sound are looked at for their times only, which tell whether the file is cut off."""
        decoder = decoder_of(stream)
        deinterlacer: Graph | None = None
        end, awaited = 0.0, Awaited(codec_name(stream.codec_context), stream.time_base)
        try:
            for packet in self._container.demux():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not stream:
                    continue
                _check_packet(packet, end)
                awaited.send(packet)
                for raw in decode(decoder, packet):
                    awaited.receive(raw)
                    if raw.interlaced_frame and deinterlacer is None:
                        deinterlacer = make_deinterlacer(stream, raw)
                    yield from [raw] if deinterlacer is None else passed(deinterlacer, raw)
            if deinterlacer is None:  # fields may have packets of their own
                awaited.check_end()
            yield from [] if deinterlacer is None else passed(deinterlacer, None)
        except av.error.FFmpegError as error:
            raise DecodeError(f"this video is damaged at about {end:.2f} s") from error
        promised = (self._container.duration or 0) / av.time_base
        if "matroska" not in self._container.format.name:  # there, the duration counts from 0, not from the first frame
            promised += (self._container.start_time or 0) / av.time_base
        if promised - end > MISSING_S or self._is_cut(stream):
            raise DecodeError(f"this video is cut off: it ends after {end:.2f} s of {promised:.2f} s")

    def _is_cut(self, stream: Any) -> bool:
        """Return whether the index names bytes behind the end of the file (MP4 and MOV)."""
        if "mov" not in self._container.format.name:
            return False
        entries = stream.index_entries
        return len(entries) > 0 and entries[-1].pos + entries[-1].size > self._container.size

    def _is_passed_over(self, frame: Any, pts: int) -> bool:
        """Return whether a frame comes before those that are wanted, and note it."""
        if self._reached is None:
            self._reached = math.inf if frame.pts is None else pts  # a time that is not known may be before any other
        if self._before is None or pts >= self._before:
            return False
        self.passed_pts = pts
        self._beat()
        return True

    def _made(self, frame: Any, pts: int, duration: int) -> Frame:
        check_colours(frame)
        if frame.width * frame.height > self.limits.max_pixels:
            raise DecodeError(f"frames have {frame.width} x {frame.height} pixels; limits.max_pixels allows fewer")
        turn = orientation_of(frame)
        self._is_turned = turn.transposed
        try:
            pixels = self._converter.to_rgb(frame)
        except av.error.FFmpegError as error:
            at_s = float(pts * self._stream.time_base)
            raise DecodeError(f"the colours of the frame at {at_s:.2f} s can't be converted: {error.strerror}") from error
        return Frame(np.ascontiguousarray(turn.upright(pixels)), pts, duration)

    def _animation(self, file: BinaryIO) -> Iterator[Frame]:
        data = file.read(self.limits.max_bytes + 1)
        if len(data) > self.limits.max_bytes:
            raise DecodeError(f"the animation has more than {self.limits.max_bytes:,} bytes (limits.max_bytes)")
        now = 0
        for pixels, duration_ms in animation_frames(data, self.limits):
            yield Frame(pixels, now, duration_ms)
            now += duration_ms


def _check_packet(packet: Any, end_s: float) -> None:
    if is_encrypted(packet):
        raise DecodeError("this video is encrypted (DRM), its frames can't be read; give a copy without protection")
    if packet.is_corrupt:
        raise DecodeError(f"this video is damaged or cut off at {end_s:.2f} s")


def _times(frame: Any, unit: Fraction, expected: int) -> tuple[int, int]:
    """Return the time of a decoded frame and how long it is shown, in this unit. Filters have a finer one."""
    scale = (frame.time_base or unit) / unit
    return expected if frame.pts is None else round(frame.pts * scale), round((frame.duration or 0) * scale)
