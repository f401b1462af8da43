"""Check whether videos can be read and cut out. Imports no PyAV before one is read."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.storage.files import Files
from pipeline.types import Size


def video_reader() -> Callable[[str, Files, int, Size], str | None] | None:
    """Return ``valid.video_error``; None without PyAV."""
    if not is_installed():
        return None
    from pipeline.video.valid import video_error

    return video_error


def suffix_of(uri: str) -> str:
    """Return the suffix of a path or URI in lower case."""
    return PurePosixPath(urlsplit(uri).path if "://" in uri else uri).suffix.lower()


def is_installed() -> bool:
    """Return whether PyAV is installed."""
    return find_spec("av") is not None


def check_usable(recipe: Recipe) -> None:
    """Check that this installation and this recipe can cut out videos.

    Raises:
        ConfigError: PyAV is not installed, or the recipe has a second model: two models would take turns, and edges would jump.
    """
    if not is_installed():
        raise ConfigError("videos need PyAV, which is not installed; pip install 'matteline[video]'")
    if recipe.second is not None:
        raise ConfigError("recipe.second is for pictures; one model cuts out all frames of a video, so remove it")
