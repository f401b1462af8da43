"""Which rows of a manifest are videos, and which part of each is meant."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, ItemRefused
from pipeline.manifest.items import items, roles
from pipeline.manifest.videos import Part, are_videos, part_of
from pipeline.storage.allowlist import AllowList

ANYWHERE = AllowList(("/", "s3://b"), http=True)


def rows(carried: pa.Schema, **columns: Any) -> pa.Table:
    return items(pa.table(columns), "/base", carried, "m.csv", 1, ANYWHERE)


def test_videos_are_known_by_suffix_or_by_column() -> None:
    uris = ["a.mp4", "b.JPG", "s3://b/c.WebM", "https://h/d.mov?v=1", "e.gif", "mp4", "f.mp4.jpg", None]
    assert are_videos(rows(pa.schema([]), image_uri=uris, item_id=list("12345678"))).tolist() == [
        *(True, False, True, True, False, False, False, False)
    ]
    carried = pa.schema([("video_uri", pa.string())])
    both = rows(carried, image_uri=["a.jpg", "", "b.jpg"], video_uri=[None, " turn.gif ", ""], item_id=list("abc"))
    assert both["image_uri"].to_pylist() == ["/base/a.jpg", "/base/turn.gif", "/base/b.jpg"]
    assert are_videos(both).tolist() == [False, True, False]
    alone = rows(carried, video_uri=["x/clip.mp4", "other"])
    assert alone["item_id"].to_pylist() == ["x/clip.mp4", "other"] and are_videos(alone).all()
    assert alone["output_name"].to_pylist() == ["x/clip", "other"]


def test_a_row_names_one_file() -> None:
    table = rows(pa.schema([]), image_uri=["a.jpg", "b.jpg"], video_uri=["a.mp4", None], item_id=["1", "2"])
    assert table["error_detail"].to_pylist() == ["the row has image_uri and video_uri; keep one of them", None]


def test_videos_are_text() -> None:
    with pytest.raises(ConfigError, match="column video_uri has type int64; it must contain text: paths or URIs"):
        roles(pa.schema([("video_uri", pa.int64())]), "m.parquet")
    with pytest.raises(ConfigError, match="rename it to 'video_uri'"):
        roles(pa.schema([("image_uri", pa.string()), ("Video_URI", pa.string())]), "m.parquet")


def test_parts_are_seconds() -> None:
    assert part_of({}) == Part() == part_of({"start_s": "", "end_s": None})
    assert part_of({"start_s": "1.5", "end_s": 3}) == Part(1.5, 3.0)
    for row in ({"start_s": "1:30"}, {"start_s": -1}, {"end_s": float("nan")}, {"end_s": "inf"}):
        with pytest.raises(ItemRefused, match="give seconds from the start of the video, or leave it empty"):
            part_of(row)
    with pytest.raises(ItemRefused, match="end_s is 0 and start_s is 0; end_s must be above start_s"):
        part_of({"end_s": 0})
