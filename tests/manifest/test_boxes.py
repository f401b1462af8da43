from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest.boxes import Boxes, expand, from_columns, from_lists, from_values
from pipeline.manifest.manifest import open_manifest, read
from pipeline.storage.files import Files

NUMBERS = st.one_of(st.floats(width=32), st.integers(-5, 5).map(float), st.none())


def outcome(boxes: Boxes) -> list[Any]:
    """Return for each row the box, the message of an invalid box, or None."""
    column = boxes.column()
    assert column.type == pa.list_(pa.float64())
    return [boxes.invalid[row].message if row in boxes.invalid else box for row, box in enumerate(column.to_pylist())]


@given(st.lists(st.one_of(st.none(), st.lists(NUMBERS, max_size=5), st.lists(NUMBERS, min_size=4, max_size=4)), max_size=8))
def test_columns_and_single_values_give_the_same_boxes(values: list[Any]) -> None:
    fast, slow = from_lists(pa.array(values, pa.list_(pa.float64()))), from_values(values)
    assert outcome(fast) == outcome(slow)
    assert [fast.label(row) for row in range(len(values))] == [slow.label(row) for row in range(len(values))]


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.float32()), pa.list_(pa.int64(), 4)])
def test_list_types(kind: pa.DataType) -> None:
    column = pa.array([[1, 2, 3, 4], None, [3, 2, 1, 4]], kind)
    boxes = from_lists(column.slice(0, 3))
    assert outcome(boxes)[:2] == [[1, 2, 3, 4], None]
    assert "no area" in outcome(boxes)[2]
    assert outcome(from_lists(column.slice(1)))[0] is None


def test_four_columns() -> None:
    rows = [[1, 2, 3, 4], [None] * 4, [1, 2, None, 4], [1, 2, np.nan, 4], [3, 2, 1, 4], [1, 2, np.inf, 4]]
    boxes = from_columns([pa.array(column, pa.float64()) for column in zip(*rows, strict=True)])
    box, none, partial, nan, inverted, infinite = outcome(boxes)
    assert (box, none) == ([1, 2, 3, 4], None)
    assert "not four numbers" in partial
    assert "not finite" in nan and "not finite" in infinite
    assert "x1 must be above x0" in inverted
    assert boxes.label(0) == "1,2,3,4"
    assert boxes.label(2) == "1,2,None,4"


@pytest.mark.parametrize(
    ("written", "parsed"),
    [
        ("1,2,3,4", [1, 2, 3, 4]),
        (" [1, 2.5, 3, 4] ", [1, 2.5, 3, 4]),
        ("(1, 2, 3, 4)", [1, 2, 3, 4]),
        ("", None),
        (" [] ", None),
        (None, None),
        ([], None),
        ("1,2,3", "is not four numbers"),
        ("1,2,,4", "not four numbers"),
        ("a,b,c,d", "box 'a,b,c,d' is not four numbers"),
        ("nan,2,3,4", "not finite"),
        ([float("nan")] * 4, None),
        ([None, float("nan"), None, None], None),
        ([None] * 3, "box has 3 numbers"),
        (
            [0, 0, 1, 1],
            "seems to be shares of the image; give pixels: multiply by its size, or give no box for the complete image",
        ),
        ("0,0,1.0,1", "seems to be shares"),
        ([0, 0, 2, 1], [0, 0, 2, 1]),
        ("1e999,2,3,4", "not finite"),
        ("0,0,10,10,", "is not four numbers"),
        (7, "box has 1 numbers"),
        ({"x0": 1}, "box has 1 numbers"),
        ([1, 2, [3], 4], "not four numbers"),
        ([1, 2, 10**400, 4], "too large"),
        ("<svg onload=1>", "is not four numbers"),
    ],
)
def test_text_and_odd_values(written: Any, parsed: Any) -> None:
    (result,) = outcome(from_values([written]))
    assert parsed in result if isinstance(parsed, str) else result == parsed


def test_lists_of_boxes_become_several_items() -> None:
    rows, boxes, suffixes = expand(
        [[[1, 2, 3, 4], [5, 6, 7, 8]], None, [], [[1, 2, 3, 4]], "[[1,2,3,4]]", "", "nonsense", [None], 5]
    )
    assert rows == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert suffixes == ["#0", "#1", "", "", "#0", "#0", "", "#0", "#0", "#0"]
    results = outcome(from_values(boxes))
    assert results[:7] == [[1, 2, 3, 4], [5, 6, 7, 8], None, None, [1, 2, 3, 4], [1, 2, 3, 4], None]
    assert all(isinstance(message, str) for message in results[7:])


BOTH = [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ([1, 2, 3, 4], [[1, 2, 3, 4]]),
        ("[1, 2, 3, 4]", [[1, 2, 3, 4]]),
        ("1,2,3,4", [[1, 2, 3, 4]]),
        ("(1 2 3 4)", [[1, 2, 3, 4]]),
        ("1;2;3;4", [[1, 2, 3, 4]]),
        (["1", "2", "3", "4"], [[1, 2, 3, 4]]),
        (["1,2,3,4", "5 6 7 8"], BOTH),
        ("[(1, 2, 3, 4), (5, 6, 7, 8)]", BOTH),
        ("(1,2,3,4),(5,6,7,8)", BOTH),
        ("[1,2,3,4];[5,6,7,8]", BOTH),
        ("1,2,3,4;5,6,7,8", BOTH),
        ("1 2 3 4 | 5 6 7 8", BOTH),
        ("1,2,3,4\n5,6,7,8\n", BOTH),
        ("[[1 2 3 4]\n [5 6 7 8]]", BOTH),
        ("[array([1, 2, 3, 4]), array([5, 6, 7, 8])]", BOTH),
        ([[1, 2, 3, 4], [float("nan")] * 4, [None] * 4], [[1, 2, 3, 4]]),
        ([None] * 4, [None]),
        ("None", [None]),
        ("[[null, null, null, null]]", [None]),
        (float("nan"), [None]),
        ([1, 2, 3], ["box has 3 numbers; give four: x0, y0, x1, y1"]),
        ([1, 2, 3, 4, 5, 6, 7, 8], ["box has 8 numbers; give four: x0, y0, x1, y1"]),
        ("left (1,2,3,4)", ["box 'left (1,2,3,4)' is not four numbers; give x0, y0, x1, y1 in pixels, or no box"]),
        ("1,2,3;4,5,6", ["box '1,2,3;4,5,6' is not four numbers; give x0, y0, x1, y1 in pixels, or no box"]),
        ("(1,2,3,4),(5,6)", ["box '(1,2,3,4),(5,6)' is not four numbers; give x0, y0, x1, y1 in pixels, or no box"]),
        ([None], ["box has 1 numbers; give four: x0, y0, x1, y1"]),
    ],
)
def test_forms_of_several_boxes(value: Any, parsed: list[Any]) -> None:
    _, boxes, _ = expand([value])
    assert outcome(from_values(boxes)) == parsed


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.int64(), 4), pa.list_(pa.string())]
)
def test_a_column_of_single_boxes_may_be_named_boxes(tmp_path: Path, kind: pa.DataType) -> None:
    values = [[1, 2, 3, 4], None, [5, 6, 7, 8]]
    texts = [box and list(map(str, box)) for box in values]
    boxes = pa.array(texts if kind == pa.list_(pa.string()) else values, kind)
    pq.write_table(pa.table({"image_uri": ["a.jpg", "b.jpg", "c.jpg"], "boxes": boxes}), tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), Files())
    (items,) = read(manifest, manifest.fragments[0], Files())
    assert items["box"].to_pylist() == values
    assert items["error_code"].null_count == 3
