from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest.boxes import Boxes, expand, from_columns, from_lists, from_values

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
        ("a,b,c,d", "not four numbers"),
        ("nan,2,3,4", "not finite"),
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
