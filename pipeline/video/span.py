"""Take a part of a video: its frames, with times from the start of the part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.manifest.videos import Part
from pipeline.video.reader import Facts, Frame, VideoReader
from pipeline.video.source import Source


class Span(NamedTuple):
    """A part in seconds of the source's own clock, which may not begin at 0."""

    start_s: float = 0.0
    end_s: float = math.inf


ALL = Span()
"""Nothing is left out, and all times stay."""


def span_of(part: Part, facts: Facts) -> Span:
    """Return the part of a video that was asked for."""
    if part == Part():
        return ALL
    first_s = float(facts.first_pts * facts.time_base)
    return Span(first_s + (part.start_s or 0.0), math.inf if part.end_s is None else first_s + part.end_s)


def length_of(part: Part, whole: tuple[int, float] | None) -> tuple[int, float] | None:
    """Return the frames and seconds of a part of a video of this length, with equal gaps; None if it is not known."""
    if whole is None:
        return None
    frames, seconds = whole
    start_s, end_s = part.start_s or 0.0, seconds if part.end_s is None else part.end_s
    inside_s = max(0.0, min(end_s, seconds) - start_s)
    return round(frames * inside_s / seconds), inside_s


def frames_expected(facts: Facts, part: Part, limits: Limits) -> int:
    """Return how many frames a part has by the header, which may be wrong; 0 if it is not known."""
    frames = facts.frames or round(facts.seconds * facts.rate)
    if part == Part():
        return min(frames, limits.max_frames)
    length = length_of(part, (frames, facts.seconds) if facts.seconds else None)
    return 0 if length is None else min(length[0], limits.max_frames)


def frames_in(reader: VideoReader, span: Span) -> Iterator[Frame]:
    """Yield the frames of a part. Their times count from its start.

    Raises:
        DecodeError: There is none, or as the reader raises.
    """
    if span == ALL:
        yield from reader
        return
    unit, some = float(reader.facts.time_base), False
    shift = round(span.start_s / unit)
    reader.skip_before(shift)
    last = reader.facts.first_pts if reader.passed_pts is None else reader.passed_pts
    for frame in reader:
        if frame.pts * unit >= span.end_s:
            break
        some = True
        yield frame._replace(pts=frame.pts - shift)
    if not some:
        first_s, last_s = reader.facts.first_pts * unit, last * unit
        raise DecodeError(
            f"no frame is between start_s={span.start_s - first_s:g} and end_s={span.end_s - first_s:g}; the last one before "
            f"is at {last_s - first_s:.2f} s"
        )


@contextmanager
def frames_again(
    source: Source, span: Span, limits: Limits, beat: Callable[[], None] = lambda: None
) -> Iterator[Iterator[Frame]]:
    """Read the frames of a part by a reader of their own, such as to look for an object. ``beat`` is called for each."""
    with VideoReader(source.open(), limits, beat) as reader:
        yield _beaten(frames_in(reader, span), beat)


def _beaten(frames: Iterator[Frame], beat: Callable[[], None]) -> Iterator[Frame]:
    for frame in frames:
        beat()
        yield frame
