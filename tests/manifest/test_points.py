"""Points on objects: the forms of the column, and the items that have one."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.detector import Detector, detector_with
from pipeline.errors import ItemRefused
from pipeline.manifest.items import items
from pipeline.manifest.manifest import open_manifest, scan
from pipeline.manifest.points import parse_point, points_of
from pipeline.manifest.prompts import prompts_of
from pipeline.storage.allowlist import AllowList

NUMBERS = pa.list_(pa.float64())


def rows(point: pa.Array, **columns: Any) -> pa.Table:
    carried = pa.schema([("point", point.type), *((name, pa.string()) for name in columns if name == "label")])
    given = {"image_uri": ["a.jpg"] * len(point)} | columns | {"point": point}
    return items(pa.table(given), "/base", carried, "m.csv", 1, AllowList(("/",)))


@pytest.mark.parametrize("given", [[310, 240.5], (310, 240.5), "310,240.5", "[310, 240.5]", " (310 240.5) ", "310;240.5"])
def test_forms_of_a_point(given: Any) -> None:
    assert parse_point(given) == (310, 240.5)


@pytest.mark.parametrize("given", [None, float("nan"), "", " ", "null", "[]", [], [None, None], [float("nan")] * 2])
def test_no_point(given: Any) -> None:
    assert parse_point(given) is None


@pytest.mark.parametrize(
    "given", ["a,b", "1", "1,2,3", "nan,1", "inf,1", [1], [1, None], [1, "x"], [10**400, 1], {"x": 1}, 5, [[1, 2]]]
)
def test_what_is_no_point(given: Any) -> None:
    with pytest.raises(ItemRefused, match=r"^point .* is not two numbers; give x, y in pixels, or no point$"):
        parse_point(given)


@pytest.mark.parametrize(
    "point",
    [
        pa.array([[310, 240], None, [5, 1.5]], NUMBERS),
        pa.array([[310, 240], None, [5, 1.5]], pa.list_(pa.float32(), 2)),
        pa.array(["310,240", "", "5,1.5"]),
        pa.array(["310,240", "", "5,1.5"]).dictionary_encode(),
    ],
    ids=["lists", "pairs", "text", "dictionary"],
)
def test_items_with_points(point: pa.Array) -> None:
    made = rows(point)
    assert points_of(made) == [(310, 240), None, (5, 1.5)]
    assert made["item_id"].to_pylist() == ["a.jpg#310,240", "a.jpg", "a.jpg#5,1.5"]
    assert made["output_name"].to_pylist() == ["a-310-240", "a", "a-5-1.5"]
    assert made["error_code"].null_count == 3 and made["box"].null_count == 3
    assert made["point"].type == point.type, "it is carried"


def test_a_bad_point_and_one_beside_a_box_fail_their_item() -> None:
    boxes = pa.array([None, [1, 2, 30, 40], [5, 5, 1, 1], [1, 2, 30, 40]], NUMBERS)
    made = rows(pa.array(["here", "3,4", "3,4", None]), box=boxes, item_id=list("abcd"))
    assert made["error_code"].to_pylist() == ["item", "item", "item", None]
    assert made["error_detail"].to_pylist()[:2] == [
        "point 'here' is not two numbers; give x, y in pixels, or no point",
        "the row has a point and a box; keep one of them",
    ]
    assert points_of(made)[0] is None


def test_each_box_of_a_row_with_a_point_fails() -> None:
    made = rows(pa.array(["3,4"]), boxes=pa.array([[[1, 2, 30, 40], [5, 6, 70, 80]]], pa.list_(NUMBERS)))
    assert made["error_detail"].to_pylist() == ["the row has a point and a box; keep one of them"] * 2


@pytest.mark.parametrize("point", [pa.array([7, None]), pa.array([True, False]), pa.array([{"x": 1}, None])])
def test_a_column_of_another_kind_is_carried_and_not_used(point: pa.Array) -> None:
    made = rows(point, item_id=["a", "b"])
    assert points_of(made) == [None, None]
    assert made["error_code"].null_count == 2 and made["point"].to_pylist() == point.to_pylist()


def test_a_point_needs_no_name_and_a_row_has_not_both() -> None:
    detector: Detector = detector_with({"preset": "nanodet", "label": ["dog"]})
    made = rows(pa.array(["3,4", "3,4", "3,4", None]), label=[None, "cat", "auto", "cat"], item_id=list("abcd"))
    nothing, both, auto, named = prompts_of(made, detector)
    assert (nothing, auto, named) == ((), (), ("cat",))
    assert isinstance(both, ItemRefused) and str(both) == "the row has a point and a label; keep one of them"
    assert prompts_of(made, None) == [()] * 4, "without a detector, a label is a column like others"


def test_several_points_of_a_picture_are_several_items(local: Any) -> None:
    uri = local.put("m.csv", b'image_uri,point\na.jpg,"310,240"\na.jpg,"5,1.5"\n')
    assert scan(open_manifest(uri, local.files), local.files).rows == 2
    uri = local.put("m.jsonl", b'{"image_uri": "a.jpg", "point": [310, 240]}\n{"image_uri": "b.jpg", "point": "here"}\n')
    found = scan(open_manifest(uri, local.files), local.files)
    assert (found.rows, found.refused) == (2, 1)
