"""Tell whether videos can be read here, and which files are videos. Imports no PyAV."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from pipeline.errors import ConfigError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv"})
"""Suffixes of files that are videos. An animated GIF or WebP is one if a video is to be written."""


def suffix_of(uri: str) -> str:
    """Return the suffix of a path or URI in lower case."""
    return PurePosixPath(urlsplit(uri).path if "://" in uri else uri).suffix.lower()


def check_installed() -> None:
    """Check that PyAV is installed.

    Raises:
        ConfigError: It is not. The message says how to install it.
    """
    if find_spec("av") is None:
        raise ConfigError("videos need PyAV, which is not installed; pip install 'matteline[video]'")
