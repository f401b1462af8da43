"""Translate what libraries raise about one video into an error of its item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import av

from pipeline.errors import DecodeError
from pipeline.imaging.png import RESOURCE_ERRORS


@contextmanager
def as_item_errors() -> Iterator[None]:
    """Translate what FFmpeg refuses outside of the places where that is expected, and frames that do not fit into memory.

    Raises:
        DecodeError: One of them.
    """
    try:
        yield
    except RESOURCE_ERRORS as error:
        raise DecodeError(f"this video can't be cut out ({type(error).__name__}); more memory may help") from error
    except av.error.FFmpegError as error:
        raise DecodeError(f"FFmpeg refuses this video: {error.strerror}") from error
