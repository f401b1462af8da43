"""Conversion of manifest rows to items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, ItemRefused
from pipeline.manifest.items import clean_names, items, resolve_all, roles
from pipeline.schema import ITEM, MAX_DETAIL
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList

NOTHING = pa.schema([])
ANYWHERE = AllowList(("/", "s3://b"), http=True)


def rows(**columns: Any) -> list[dict[str, Any]]:
    table = items(pa.table(columns), "/base", NOTHING, "m.csv", 1, ANYWHERE)
    assert table.schema.equals(ITEM, check_metadata=True)
    table.validate(full=True)
    return table.to_pylist()


def test_a_row_becomes_an_item() -> None:
    empty = {"box": None, "error_code": None, "error_detail": None}
    assert rows(image_uri=["a.jpg", "/x/b.jpg", "s3://b/c.jpg"], item_id=["1", "2", "3"]) == [
        {"item_id": item_id, "output_name": item_id, "image_uri": uri} | empty
        for item_id, uri in (("1", "/base/a.jpg"), ("2", "/x/b.jpg"), ("3", "s3://b/c.jpg"))
    ]


def test_integers_are_valid_ids() -> None:
    result = rows(image_uri=["a", "b", "c"], item_id=pa.array([7, None, -(2**60)], pa.int64()))
    assert [row["item_id"] for row in result] == ["7", "b", str(-(2**60))]


def test_missing_ids_are_derived_from_uri_and_box() -> None:
    box = pa.array([[10, 20, 30.5, 40], None, [5, 5, 1, 1]], pa.list_(pa.float64()))
    result = rows(image_uri=["a.jpg"] * 3, item_id=["", None, ""], box=box)
    assert [row["item_id"] for row in result] == ["a.jpg#10,20,30.5,40", "a.jpg", "a.jpg#5,5,1,1"]
    assert [row["error_code"] for row in result] == [None, None, "item"]
    assert result[2]["image_uri"] == "/base/a.jpg"
    assert result[2]["box"] is None
    signed = "https://h/a.jpg?id=1&X-Amz-Signature=abc"
    (web,) = rows(image_uri=[signed])
    assert (web["item_id"], web["image_uri"]) == ("https://h/a.jpg?id=1", signed)
    (s3,) = rows(image_uri=["s3://key:pass-word@b/a@b.jpg"])
    assert (s3["item_id"], s3["error_code"]) == ("s3://b/a@b.jpg", "item")
    assert "pass-word" not in s3["error_detail"]


def test_a_row_without_uri_and_id_gets_the_name_of_the_row() -> None:
    table = pa.table({"image_uri": ["a", None, ""], "item_id": ["x", None, "kept"]})
    result = items(table, "/base", NOTHING, "part/m.csv", 41, ANYWHERE).to_pylist()
    assert [row["item_id"] for row in result] == ["x", "part/m.csv#row-42", "kept"]
    assert [row["error_code"] for row in result] == [None, "item", "item"]
    assert result[1]["error_detail"] == "image_uri is empty; give a path or URI"
    assert result[1]["image_uri"] is None


def test_each_box_of_a_row_becomes_an_item() -> None:
    boxes = pa.array([[[1, 2, 3, 4], [9, 9, 1, 1]], None, []], pa.list_(pa.list_(pa.float64())))
    table = pa.table({"image_uri": ["a", "b", "c"], "item_id": ["A", None, "C"], "boxes": boxes, "sku": [1, 2, 3]})
    result = items(table, "/base", pa.schema([("sku", pa.int64())]), "m", 1, ANYWHERE).to_pylist()
    assert [(row["item_id"], row["box"], row["sku"], row["error_code"]) for row in result] == [
        ("A#0", [1, 2, 3, 4], 1, None),
        ("A#1", None, 1, "item"),
        ("b", None, 2, None),
        ("C", None, 3, None),
    ]


def test_corners_as_text() -> None:
    corners = {"x0": ["1", None, "x"], "y0": ["2", "", "2"], "x1": ["3.5", None, "3"], "y1": ["4", None, None]}
    result = rows(image_uri=["a", "b", "c"], **{name: pa.array(values, pa.string()) for name, values in corners.items()})
    assert [row["box"] for row in result] == [[1, 2, 3.5, 4], None, None]
    assert [row["error_code"] for row in result] == [None, None, "item"]
    assert "not four numbers" in result[2]["error_detail"]


def test_error_details_are_truncated() -> None:
    (row,) = rows(image_uri=["a"], box=["9" * 5000])
    assert row["error_code"] == "item"
    assert len(row["error_detail"]) <= MAX_DETAIL


def test_carried_columns_are_cast_and_renamed_on_a_clash() -> None:
    table = pa.table({"image_uri": ["a"], "status": ["new"], "price": pa.array([1.5], pa.float32()), "tags": [["x"]]})
    carried = pa.schema(
        [("manifest_status", pa.string()), ("price", pa.float64()), ("tags", pa.list_(pa.string())), ("z", pa.int8())]
    )
    (row,) = items(table, "/base", carried, "m", 1, ANYWHERE).to_pylist()
    assert {name: row[name] for name in carried.names} == {"manifest_status": "new", "price": 1.5, "tags": ["x"], "z": None}


def test_dictionaries_and_large_strings_are_accepted() -> None:
    result = rows(image_uri=pa.array(["a", "b"]).dictionary_encode(), item_id=pa.array(["1", "2"], pa.large_string()))
    assert [(row["item_id"], row["image_uri"]) for row in result] == [("1", "/base/a"), ("2", "/base/b")]


def test_empty_tables() -> None:
    assert rows(image_uri=pa.array([], pa.string()), box=pa.array([], pa.list_(pa.float64()))) == []


@given(
    st.lists(
        st.one_of(
            st.text(alphabet="a./:s3?@#é ", max_size=8),
            st.sampled_from(
                ["s3://b/k", "s3://b", "s3a://b/k", "file:///a%20", "https://u:p@h/x?token=1", "../x", "a/./b", "gs://x/y"]
            ),
        ),
        max_size=6,
    ),
    st.sampled_from(["/base", "/", "s3://bucket/p", "s3://bucket"]),
)
def test_columns_and_single_uris_resolve_alike(written: list[str], base: str) -> None:
    column, errors = resolve_all(pa.array(written, pa.string()), base)
    for row, text in enumerate(written):
        try:
            expected: str | None = uris.resolve(text, base)
        except ItemRefused as error:
            expected = None
            assert errors[row] == str(error)
        assert column[row].as_py() == expected
    assert len(errors) == column.null_count


def columns(**kinds: pa.DataType) -> pa.Schema:
    return pa.schema(list(kinds.items()))


TEXT, LIST = pa.string(), pa.list_(pa.float64())


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (
            columns(item_id=TEXT, url=TEXT),
            "no column image_uri; if the column 'url' has the paths or URIs of images, add --image-column url",
        ),
        (columns(path=TEXT, image=TEXT), "add --image-column path"),
        (columns(Image_URL=TEXT), "add --image-column Image_URL"),
        (columns(a=TEXT, b=TEXT), "its columns are 'a', 'b'; name the one with the paths or URIs of images: --image-column"),
        (columns(image_uri=TEXT, Box=LIST), "column 'Box'; rename it to 'box'"),
        (columns(image_uri=TEXT, x0=LIST, y0=LIST), "lacks x1, y1"),
        (columns(image_uri=TEXT, box=LIST, boxes=TEXT), "two forms .box and boxes."),
        (columns(image_uri=TEXT, box=LIST, x0=TEXT, y0=TEXT, x1=TEXT, y1=TEXT), "two forms"),
        (columns(image_uri=pa.int64()), "image_uri has type int64; it must contain text"),
        (columns(image_uri=pa.binary()), "image_uri has type binary"),
        (columns(image_uri=TEXT, item_id=pa.float64()), "item_id has type double; it must contain text or integers"),
        (columns(image_uri=TEXT, box=pa.float64()), "box has type double; it must contain lists of four numbers"),
        (columns(image_uri=TEXT, boxes=pa.float64()), "boxes has type double.*lists of lists"),
        (columns(image_uri=TEXT, x0=pa.bool_(), y0=TEXT, x1=TEXT, y1=TEXT), "x0 has type bool"),
        (columns(image_uri=TEXT, status=TEXT, manifest_status=TEXT), "two columns for the index column 'manifest_status'"),
    ],
)
def test_invalid_columns_are_refused(schema: pa.Schema, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        roles(schema, "m.parquet")


def test_column_names_are_cleaned() -> None:
    assert clean_names(["\ufeffimage_uri ", " item_id"], "m") == ["image_uri", "item_id"]
    with pytest.raises(ConfigError, match="two columns named 'a'"):
        clean_names(["a", "a "], "m")


def test_slices_of_tables_respect_their_offset() -> None:
    boxes = pa.array(np.arange(40.0).reshape(10, 4).tolist(), pa.list_(pa.float64()))
    table = pa.table({"image_uri": [f"{row}.jpg" for row in range(10)], "box": boxes})
    result = items(table.slice(3, 2), "/base", NOTHING, "m", 1, ANYWHERE).to_pylist()
    assert [(row["image_uri"], row["box"]) for row in result] == [
        ("/base/3.jpg", [12, 13, 14, 15]),
        ("/base/4.jpg", [16, 17, 18, 19]),
    ]
