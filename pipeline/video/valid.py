"""Read a written video back and compare it with its index row (``matteline verify``)."""

from __future__ import annotations

from typing import Any, BinaryIO

import av

from pipeline.config.job import Limits
from pipeline.errors import ItemError
from pipeline.storage.files import Files
from pipeline.types import Size
from pipeline.video.archive import archive_error
from pipeline.video.container import decoded, open_container
from pipeline.video.source import Source


def video_error(uri: str, files: Files, frames: int, size: Size) -> str | None:
    """Say what is wrong with a written video that should have so many frames of this size; None if it is valid.

    Args:
        uri: Absolute path or URI.
        files: Access to storage.
        frames: Number of frames.
        size: Their size.
    """
    try:
        with Source(uri, files, Limits()) as source:
            file = source.open()
            return archive_error(file, frames, size) if uri.endswith(".zip") else _error_of(file, frames, size)
    except (av.error.FFmpegError, ItemError, IndexError) as error:
        return f"it can't be read: {error}"


def _error_of(file: BinaryIO, frames: int, size: Size) -> str | None:
    count = 0
    with open_container(file, Limits(max_pixels=max(1, size.height * size.width))) as container:
        stream: Any = container.streams.video[0]
        for frame in decoded(container, stream):
            count += 1
            if (frame.height, frame.width) != size:
                return f"it has {frame.width} x {frame.height} pixels, but its index row says {size.width} x {size.height}"
    return None if count == frames else f"it has {count} frames, but its index row says {frames}"
