"""Divide a long video into stretches, so that several workers find its masks at the same time.

A stretch is some segments. Its masks go to the kept segments of the video. The process that writes the video's files reads them
there, compares their times with the frames, and finds masks that are missing or of another object itself. So nothing depends
on a stretch but the time that the video takes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from typing import Any, BinaryIO, NamedTuple

import av

from pipeline.config.job import Limits
from pipeline.segmenter import Segmenter
from pipeline.video.container import open_container, video_stream
from pipeline.video.masked import segmented
from pipeline.video.reader import VideoReader
from pipeline.video.segments import SegmentStore, frames_per_segment
from pipeline.video.span import Span, frames_in

SEGMENTS = 4
"""Segments per stretch: so many that the time to seek its start and to warm up hardly matters."""

WARM_UP = 8
"""Frames before a stretch that the model sees, so that the object is carried into it."""


BEAT_PACKETS = 200
"""Packets between two signs of life."""


class Stretch(NamedTuple):
    """Some segments of a video.

    Attributes:
        first: Number of the first segment.
        warm_up: Frames of the warm-up.
        pts: Time of the first frame, that of the warm-up if there is one.
    """

    first: int
    warm_up: int
    pts: int


def frame_times(file: BinaryIO, limits: Limits, beat: Callable[[], None] = lambda: None) -> list[int]:
    """Return the times of a video's frames in order, by its packets; none if they are not known without decoding.

    Args:
        file: The video, which is read completely.
        limits: Of the video.
        beat: Called for some of the packets.
    """
    try:
        with open_container(file, limits) as container:
            stream = video_stream(container)
            packets = () if stream is None else container.demux(stream)
            # Of each packet its time only: together they are as large as the file.
            times: list[Any] = []
            for number, one in zip(count(), packets, strict=False):
                if number % BEAT_PACKETS == 0:
                    beat()
                if one.size and not one.is_discard:
                    times.append(one.pts)
                del one
    except av.error.FFmpegError:
        return []
    return [] if None in times else sorted(times)


def divide(times: list[int], per_segment: int, span: Span, unit: float) -> list[Stretch]:
    """Return the stretches of a video; none if there would be only one.

    Args:
        times: Of its frames, in units of ``unit`` seconds.
        per_segment: Frames per segment.
        span: The part that is cut out.
        unit: Seconds per unit.
    """
    shift = round(span.start_s / unit)
    inside = [time for time in times if time >= shift and time * unit < span.end_s]
    step = SEGMENTS * per_segment
    warm_ups = [(start, min(start, WARM_UP)) for start in range(0, len(inside), step)]
    stretches = [Stretch(start // per_segment, warm_up, inside[start - warm_up]) for start, warm_up in warm_ups]
    return stretches if len(stretches) > 1 else []


def find_masks(
    file: BinaryIO,
    limits: Limits,
    stretch: Stretch,
    span: Span,
    segmenter: Segmenter,
    store: SegmentStore,
    beat: Callable[[], None],
    kept: Callable[[], None],
) -> None:
    """Find and keep the masks of a stretch. The last segment of a video, which is not complete, is not kept.

    Raises:
        ItemError: A frame cannot be decoded, or the model fails.
    """
    with VideoReader(file, limits, beat) as reader:
        facts = reader.facts
        reader.skip_to(stretch.pts)
        frames = frames_in(reader, span)
        before = list(islice(frames, stretch.warm_up))
        rest = islice(frames, SEGMENTS * frames_per_segment(facts.size))
        for _ in segmented(rest, facts, segmenter, None, store, kept, stretch.first, before):
            beat()
