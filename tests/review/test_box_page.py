"""The page of boxes that ``matteline detect`` wrote."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    kinds = {"box": pa.list_(pa.float64()), "box_score": pa.float64()}
    names = ("item_id", "image_uri", "box", "box_score", "box_label")
    pq.write_table(
        pa.table({name: pa.array([row.get(name) for row in rows], kinds.get(name, pa.string())) for name in names}), path
    )


def data_of(page: Path, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return json.loads(found[1])


def test_boxes_are_drawn_lowest_score_first(tmp_path: Path, make_photos: Callable[..., list[Path]], matteline: Command) -> None:
    one, two = map(str, make_photos(tmp_path / "photos", 2))
    rows = [
        {"item_id": "a#0", "image_uri": one, "box": [1, 2, 30, 40], "box_score": 0.9, "box_label": "cup"},
        {"item_id": "a#1", "image_uri": one, "box": [5, 6, 30, 40], "box_score": 0.2, "box_label": "<b>plant"},
        {"item_id": "own", "image_uri": two, "box": [5, 6, 70, 80]},
        {"item_id": "whole", "image_uri": two},
    ]
    write(tmp_path / "boxes.parquet", rows)
    assert matteline("report", "boxes.parquet").returncode == 0
    page = tmp_path / "boxes.html"
    listed = data_of(page, "rows")
    assert listed["item_id"] == ["a#1", "a#0", "own"] and listed["shown"] == [["0.200", "0.900", ""]]
    assert listed["status"] == ["<b>plant", "cup", "no name"]
    picture = data_of(page, "picture-0")
    assert picture["box"] == [5, 6, 30, 40] and picture["photo"].startswith("data:image/webp;base64,")
    assert matteline("report", "boxes.parquet", "--items", "1").returncode == 0
    assert "picture-1" not in page.read_text(encoding="utf-8")
    for option in (("--sample",), ("--show", "sku")):
        refused = matteline("report", "boxes.parquet", *option)
        assert refused.returncode == 2 and f"{option[0]} is for the output of matteline run" in refused.stderr
    foreign = matteline("report", "boxes.parquet", "-o", "photos/photo-000.jpg")
    assert foreign.returncode == 2 and "photo-000.jpg" in foreign.stderr


def test_photos_outside_the_roots_and_other_files_are_refused(
    tmp_path: Path, make_photos: Callable[..., list[Path]], matteline: Command
) -> None:
    (tmp_path / "in").mkdir()
    (photo,) = map(str, make_photos(tmp_path / "out", 1))
    rows = [{"item_id": "a", "image_uri": photo, "box": [1, 2, 3, 4], "box_score": 0.5}, {"item_id": "b", "box": [0, 0, 0, 1]}]
    write(tmp_path / "in" / "boxes.parquet", rows)
    found = matteline("report", "in/boxes.parquet")
    assert found.returncode == 1 and "photos are missing" in found.stderr.replace("pictures", "photos")
    assert data_of(tmp_path / "in" / "boxes.html", "picture-0")["missing"][0][0] == "photo"
    assert matteline("report", "in/boxes.parquet", "--allow-root", str(tmp_path / "out")).returncode == 1, "b has no photo"
    assert data_of(tmp_path / "in" / "boxes.html", "picture-0")["missing"] == []
    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    table = pq.read_table(tmp_path / "in" / "boxes.parquet")
    for name, at in (("box", 2), ("box_score", 3)):
        pq.write_table(table.set_column(at, name, pa.array(["0.5", "x"])), tmp_path / f"{name}.parquet")
    odd = table.set_column(4, "box_label", pa.array([b"\xff", b"x"]).view(pa.string()))
    pq.write_table(odd, tmp_path / "latin.parquet")
    for name, said in (
        ("latin", "is not a Parquet file, or is damaged"),
        *(("other", "has no column image_uri"), ("text", "is not a Parquet file"), ("gone", "gone.parquet")),
        *(("box", "box has the type string; store lists"), ("box_score", "box_score has the type string; store numbers")),
    ):
        refused = matteline("report", f"{name}.parquet")
        assert refused.returncode in (2, 4) and said in refused.stderr and "Traceback" not in refused.stderr
