"""Look into videos without reading all of them: single frames, and what the header says of their length."""

from __future__ import annotations

from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.types import Pixels
from pipeline.video.colour import Converter
from pipeline.video.container import decoded, open_container
from pipeline.video.reader import VideoReader

EARLY_S = 0.0005
"""Seconds by which a frame may be early: WebM counts in milliseconds."""


def still(file: BinaryIO, at_s: float, limits: Limits) -> Pixels:
    """Return the frame of a source that is shown at a time, (H, W, 3) uint8, upright.

    Args:
        file: The video.
        at_s: Seconds from its first frame.
        limits: Of the video.

    Raises:
        DecodeError: The video cannot be read.
    """
    with VideoReader(file, limits) as reader:
        reader.look_from(at_s)
        unit, last = float(reader.facts.time_base), None
        for frame in reader:
            if last is not None and (frame.pts - reader.facts.first_pts) * unit > at_s + EARLY_S:
                break
            last = frame.pixels
    if last is None:
        raise DecodeError(f"this video has no frame at {at_s:.2f} s")
    return last


def written_still(file: BinaryIO, at_s: float) -> npt.NDArray[np.uint8]:
    """Return the frame of a written video that is shown at a time, (H, W, 4) uint8 RGBA.

    Raises:
        DecodeError: The video cannot be read.
    """
    last: Any = None
    try:
        with open_container(file, Limits()) as container:
            stream: Any = container.streams.video[0]
            container.seek(max(0, round(at_s / stream.time_base)), stream=stream, backward=True)
            for frame in decoded(container, stream):
                if last is not None and float(frame.pts * stream.time_base) > at_s + EARLY_S:
                    break
                last = frame
        if last is not None:
            return Converter().to_rgba(last)
    except (av.error.FFmpegError, IndexError) as error:
        raise DecodeError(f"the written video can't be read: {error}") from error
    raise DecodeError(f"the written video has no frame at {at_s:.2f} s")


def length(file: BinaryIO, limits: Limits) -> tuple[int, float] | None:
    """Return the number of frames and the seconds of a video, as its header says; None if it does not, or is no video."""
    try:
        with open_container(file, limits) as container:
            stream: Any = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            frames = stream.frames or round(seconds * (stream.average_rate or 0))
    except (av.error.FFmpegError, IndexError):
        return None
    return (frames, seconds) if frames and seconds else None
