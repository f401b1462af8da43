from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ItemsMissing
from pipeline.evaluate.ground_truth import join_index, read_ground_truth
from pipeline.manifest.manifest import open_manifest
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.schema import INDEX
from pipeline.storage.files import Files


def ground_truth(*item_ids: str) -> pa.Table:
    count = len(item_ids)
    return pa.table(
        {
            "item_id": list(item_ids),
            "truth_uri": ["/m.png"] * count,
            "truth_error": pa.nulls(count, pa.string()),
            "group": list(item_ids),
            "tags": [["a"]] * count,
        }
    )


def test_ground_truth_joins_the_index_whatever_the_order_of_parts(tmp_path: Path) -> None:
    output = Output.at(str(tmp_path), Files())
    for item_id, quality in (("b", 0.25), ("a", 0.5), ("other", 0.75)):
        row = {
            "item_id": item_id,
            "output_name": item_id,
            "status": "ok",
            "quality": quality,
            "signals": {"soft_dice": quality},
        }
        write_part(output, pa.Table.from_pylist([row], INDEX))
    older = pa.table({"item_id": ["c"], "status": ["failed"], "signals": [{"soft_dice": 0.125}]})
    pq.write_table(older, tmp_path / "index" / "part-0.parquet")
    rows = join_index(ground_truth("c", "a", "b"), output)
    assert rows["item_id"].to_pylist() == ["c", "a", "b"]
    assert rows["quality"].to_pylist() == [None, 0.5, 0.25]
    assert [one["soft_dice"] for one in rows["signals"].to_pylist()] == [0.125, 0.5, 0.25]
    with pytest.raises(ItemsMissing, match="1 items have no row"):
        join_index(ground_truth("a", "nobody"), output)


@pytest.mark.parametrize(("column", "groups"), [(None, ["a", "b", "c"]), (["x", None, "x"], ["x", "b", "x"])])
def test_the_group_is_the_manifests_or_the_item_id(tmp_path: Path, column: list[str | None] | None, groups: list[str]) -> None:
    rows = {"item_id": ["a", "b", "c"], "image_uri": ["a.jpg", "b.jpg", "c.jpg"], "truth_uri": ["a.png", "b.png", "c.png"]}
    pq.write_table(pa.table(rows | ({} if column is None else {"group": column})), tmp_path / "m.parquet")
    found = read_ground_truth(open_manifest(str(tmp_path / "m.parquet"), Files()), Files(), "truth_uri", None)
    assert found["group"].to_pylist() == groups
