"""Read a written video back and compare it with what was written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.errors import WriteError
from pipeline.video.colour import Converter
from pipeline.video.container import codec_name, decoded
from pipeline.video.sound import Track
from pipeline.video.writer import Written

ALPHA_TOLERANCE = 2.0
"""Largest difference of a frame's mean alpha, of 255."""

WEBM_TICK_S = 0.001

ISO_639 = re.compile("[a-z]{3}")
"""Languages that every container keeps."""

UNKNOWN = "und"
"""The language of a track that names none."""


def check_written(path: Path, written: Written, beat: Callable[[], None] = lambda: None) -> None:
    """Compare the frames, their sizes and times, the alpha and the sound tracks.

    Args:
        path: The file.
        written: What was written.
        beat: Called for every frame.

    Raises:
        WriteError: They differ. The message says where.
    """
    try:
        with av.open(f"file:{path}") as container:
            stream: Any = container.streams.video[0]
            _compare_tracks(container.streams.audio, written)
            converter, count = Converter(), 0
            tolerance_s = max(float(stream.time_base), WEBM_TICK_S) * 0.51
            for frame in decoded(container, stream):
                if count < len(written.seconds):
                    beat()
                    _compare(frame, converter, float((frame.pts or 0) * stream.time_base), written, count, tolerance_s)
                count += 1
    except av.error.FFmpegError as error:
        raise WriteError(f"the written video can't be read back: {error}") from error
    if count != len(written.seconds):
        raise WriteError(f"the written video has {count} frames instead of {len(written.seconds)}")


def _compare_tracks(streams: Sequence[Any], written: Written) -> None:
    wanted: Sequence[Track] = written.tracks
    if len(streams) != len(wanted):  # MP4 and MOV leave out a track without sound, WebM does not
        wanted = [track for number, track in enumerate(wanted) if number not in written.empty]
    if len(streams) != len(wanted):
        raise WriteError(f"the written video has {len(streams)} sound tracks instead of {len(wanted)}")
    for number, (stream, track) in enumerate(zip(streams, wanted, strict=True)):
        if (codec := codec_name(stream.codec_context)) != track.codec:
            raise WriteError(f"sound track {number} of the written video is {codec} instead of {track.codec}")
        language = stream.metadata.get("language", UNKNOWN)
        if ISO_639.fullmatch(track.language) and language != track.language:
            raise WriteError(f"sound track {number} of the written video is in {language!r} instead of {track.language!r}")


def _compare(
    frame: av.VideoFrame, converter: Converter, seconds: float, written: Written, number: int, tolerance_s: float
) -> None:
    if (frame.height, frame.width) != written.size:
        raise WriteError(
            f"the written video is {frame.width} x {frame.height} instead of {written.size.width} x {written.size.height}"
        )
    if abs(seconds - written.seconds[number]) > tolerance_s:
        raise WriteError(
            f"frame {number} of the written video is at {seconds:.4f} s instead of {written.seconds[number]:.4f} s"
        )
    if written.alpha is not None:
        alpha = float(np.mean(converter.to_rgba(frame)[..., 3]))
        if abs(alpha - written.alpha[number]) > ALPHA_TOLERANCE:
            raise WriteError(
                f"frame {number} of the written video has a mean alpha of {alpha:.1f} instead of {written.alpha[number]:.1f}"
            )
