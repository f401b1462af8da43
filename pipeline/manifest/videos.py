"""Tell which items of a manifest are videos, and which part of each is meant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ItemRefused

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv")
"""Suffixes of videos, regardless of case. An animation (GIF, WebP) is a picture, unless it is named in ``video_uri``."""

VIDEO_COLUMN = "video_uri"
"""Column of a manifest with URIs of videos, whatever their suffix. It is carried into the index."""

PART_COLUMNS = ("start_s", "end_s")
"""Columns of a manifest that name a part of a video. They are carried into the index."""

_IS_VIDEO = rf"(?i)(?:{'|'.join(suffix.replace('.', '[.]') for suffix in VIDEO_SUFFIXES)})(?:[?#].*)?$"


Kind = Literal["pictures", "videos"]


class Part(NamedTuple):
    """The part of a video that is cut out, in seconds from its first frame. None: from the start, to the end."""

    start_s: float | None = None
    end_s: float | None = None


def folder_suffixes() -> tuple[str, ...]:
    """Return the suffixes of videos that are items of a folder: none without PyAV, as if they were files of another kind."""
    return VIDEO_SUFFIXES if find_spec("av") is not None else ()


def are_videos(items: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which items are videos: by the suffix of their URI, or because the manifest names them in ``video_uri``."""
    found = pc.fill_null(pc.match_substring_regex(items["image_uri"], _IS_VIDEO), False)
    if VIDEO_COLUMN in items.column_names:
        named = pc.fill_null(pc.not_equal(items[VIDEO_COLUMN].cast(pa.string()), ""), False)
        found = pc.or_(found, named)
    return np.asarray(found.to_numpy())


def with_videos(raw: pa.Table) -> tuple[pa.Table, dict[int, str]]:
    """Put the URIs of ``video_uri`` into ``image_uri``, where items have the URI of their file.

    Returns:
        The rows, and messages for rows that have both.
    """
    if VIDEO_COLUMN not in raw.column_names:
        return raw, {}
    videos = pc.utf8_trim_whitespace(pc.fill_null(raw[VIDEO_COLUMN].cast(pa.string()), ""))
    given = "image_uri" in raw.column_names
    images = pc.fill_null(raw["image_uri"].cast(pa.string()), "") if given else pa.array([""] * raw.num_rows, pa.string())
    two = pc.and_(pc.not_equal(videos, ""), pc.not_equal(images, ""))
    both = dict.fromkeys(np.flatnonzero(two.to_numpy()).tolist(), "the row has image_uri and video_uri; keep one of them")
    merged = pc.if_else(pc.equal(videos, ""), images, videos)
    if given:
        return raw.set_column(raw.schema.get_field_index("image_uri"), "image_uri", merged), both
    return raw.append_column("image_uri", merged), both


def part_of(row: Mapping[str, Any]) -> Part:
    """Return the part that the columns ``start_s`` and ``end_s`` of a row name.

    Raises:
        ItemRefused: One of them is not a number of seconds from 0, or the end is not after the start.
    """
    start, end = (_seconds(row, name) for name in PART_COLUMNS)
    if end is not None and end <= (start or 0):
        raise ItemRefused(f"end_s is {end:g} and start_s is {start or 0:g}; end_s must be above start_s")
    return Part(start, end)


def _seconds(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None or str(value).strip() == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ItemRefused(f"{name} is {str(value)[:40]!r}; give seconds from the start of the video, or leave it empty")
    return seconds
