"""Columns that a person might expect to be used: image bytes, boxes by other names, indexes of pandas."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.manifest.manifest import open_manifest, read
from pipeline.storage.files import Files

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def opened(tmp_path: Path, columns: dict[str, Any]) -> Any:
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    return open_manifest(str(tmp_path / "m.parquet"), Files())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (("xmin", "ymin", "xmax", "ymax"), "If xmin, ymin, xmax, ymax are boxes, add --box-column xmin,ymin,xmax,ymax"),
        (("Left", "Top", "Right", "Bottom"), "add --box-column Left,Top,Right,Bottom"),
        (("x", "y", "width", "height"), "x0, y0, x1, y1: x, y, x + width, y + height, in pixels"),
        (("x_min", "y_min", "x_max", "y_max"), "add --box-column x_min,y_min,x_max,y_max"),
        (("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), "add --box-column bbox_x1,bbox_y1,bbox_x2,bbox_y2"),
        (("BoxX0", "BoxY0", "BoxX1", "BoxY1"), "add --box-column BoxX0,BoxY0,BoxX1,BoxY1"),
        (("bbox x1", "bbox y1", "bbox x2", "bbox y2"), "add --box-column 'bbox x1,bbox y1,bbox x2,bbox y2'"),
        (
            ("bbox_x", "bbox_y", "bbox_w", "bbox_h", "width", "height"),
            "x1, y1: bbox_x, bbox_y, bbox_x + bbox_w, bbox_y + bbox_h",
        ),
        (("left", "top", "width", "height"), "x0, y0, x1, y1: left, top, left + width, top + height, in pixels"),
        (("xmin", "ymin", "width", "height"), "x0, y0, x1, y1: xmin, ymin, xmin + width, ymin + height"),
        (("cx", "cy", "w", "h"), "x0, y0, x1, y1: cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, in pixels"),
        (("x_center", "y_center", "width", "height"), "x1, y1: x_center - width / 2, y_center - height / 2"),
        (
            ("Bounding Box",),
            "has x0, y0, x1, y1, add --box-column 'Bounding Box' (--boxes-column for several",
        ),
        (("bbox",), "If it has x, y, width and height, as in COCO, convert it first"),
    ],
)
def test_boxes_by_other_names_are_told(
    tmp_path: Path, columns: tuple[str, ...], words: str, logged: list[logging.LogRecord]
) -> None:
    opened(tmp_path, {"image_uri": ["a.jpg"]} | {name: [1] for name in columns})
    (line,) = [one.getMessage() for one in logged]
    assert words in line and "complete images are cut out" in line


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ({"objects": [{"bbox": [[0, 0, 9, 9]], "category": [1]}]}, "If objects.bbox has boxes, write them to a column boxes"),
        ({"annotations": [[{"bbox": [0, 0, 9, 9]}]]}, "If annotations.bbox has boxes, write them to a column boxes: a list of"),
        ({"faces": [[{"bounding_box": [0, 0, 9, 9]}]]}, "If faces.bounding_box has boxes"),
    ],
)
@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl"])
def test_boxes_in_structs_are_told(
    tmp_path: Path, column: dict[str, Any], words: str, name: str, logged: list[logging.LogRecord]
) -> None:
    if name == "m.parquet":
        opened(tmp_path, {"image_uri": ["a.jpg"]} | column)
    else:
        row = {"image_uri": "a.jpg"} | {key: values[0] for key, values in column.items()}
        (tmp_path / name).write_text(json.dumps(row))
        open_manifest(str(tmp_path / name), Files())
    told = [one.getMessage() for one in logged]
    if name == "m.parquet":
        assert words in told[0] and "complete images are cut out" in told[0]
    elif "faces" not in column:
        assert f"If {next(iter(column))} has boxes, write them to a column boxes" in told[0]


@pytest.mark.parametrize("names", [("x1", "y1", "x2", "y2"), ("X1", "Y1", "X2", "Y2"), ("x2", "y2", "x1", "y1")])
def test_the_most_usual_four_columns_are_refused_with_their_option(tmp_path: Path, names: tuple[str, ...]) -> None:
    listed = ",".join(sorted(names, key=lambda name: (name[1], name)))
    with pytest.raises(ConfigError, match=f"if its boxes are in {listed}, add --box-column {listed}"):
        opened(tmp_path, {"image_uri": ["a.jpg"]} | {name: [1] for name in names})
    manifest = open_manifest(str(tmp_path / "m.parquet"), Files(), chosen=Columns(box=listed))
    assert manifest.columns.names == []


def test_sizes_and_used_boxes_are_not(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    opened(tmp_path, {"image_uri": ["a.jpg"], "width": [1], "height": [1], "x": [1]})
    opened(tmp_path, {"image_uri": ["a.jpg"], "box": [[0, 0, 9, 9]], "bbox": [[0, 0, 9, 9]]})
    assert not logged


def test_bytes_are_told_and_not_carried(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    thumbs = pa.array([{"bytes": b"x" * 100, "path": "a"}], IMAGE)
    big = pa.array([b"y" * (70 << 20)], pa.binary())  # above the limit of cells that are read
    manifest = opened(tmp_path, {"image_uri": ["a.jpg"], "thumb": thumbs, "raw": big, "n": [1]})
    (rows,) = read(manifest, manifest.fragments[0], Files())
    assert "n" in rows.column_names and not {"thumb", "raw"} & set(rows.column_names)
    assert [one.getMessage().rpartition(": ")[2] for one in logged] == ["'thumb', 'raw'"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "image",
            "no column image_uri, and the bytes in 'image' are no pictures; its columns are 'image', 'label'; name the one",
        ),
        ("image_uri", "column image_uri has type struct<bytes: binary, path: string>; it must contain text"),
    ],
)
def test_bytes_that_are_no_pictures(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(tmp_path, {name: pa.array([{"bytes": b"x", "path": None}], IMAGE), "label": [1]})


def test_paths_as_bytes_need_another_type(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="image_uri has type binary; it must contain text"):
        opened(tmp_path, {"image_uri": pa.array([b"a.jpg"], pa.binary())})


def test_an_index_in_the_metadata_is_told(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    frame = pd.DataFrame({"image_uri": ["a.jpg", "b.jpg"]})
    frame.index.name = "item_id"
    frame.to_parquet(tmp_path / "m.parquet")
    open_manifest(str(tmp_path / "m.parquet"), Files())
    assert any("pandas index 'item_id' is not a column" in one.getMessage() for one in logged)
    logged.clear()
    frame.set_index(pd.Index(["x", "y"], name="item_id")).to_parquet(tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), Files())
    (rows,) = read(manifest, manifest.fragments[0], Files())
    assert rows["item_id"].to_pylist() == ["x", "y"] and not logged


def test_names_are_unique_without_regard_to_case(tmp_path: Path) -> None:
    manifest = opened(tmp_path, {"image_uri": ["a.jpg"], "Status": ["new"], "SKU": ["1"]})
    assert manifest.carried.names == ["manifest_Status", "SKU"]
    with pytest.raises(ConfigError, match="two columns for the index column 'tags'.*ignores case"):
        opened(tmp_path, {"image_uri": ["a.jpg"], "Tags": ["x"], "tags": ["y"]})
