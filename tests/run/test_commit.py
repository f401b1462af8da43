"""A committed part says what the run counts."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.output.index import read_index
from pipeline.run.stages.commit import commit_batch
from pipeline.schema import INDEX


def test_a_part_is_written_and_counted(stage_context: Any) -> None:
    context = stage_context()
    rows = [
        {
            "item_id": "a",
            "output_name": "a",
            "status": "ok",
            "quality": 0.75,
            "quality_calibrated": True,
            "seconds": {"segment": 2.0},
        },
        {
            "item_id": "b",
            "output_name": "b",
            "status": "ok",
            "quality": 0.5,
            "quality_calibrated": True,
            "seconds": {"segment": 1.0},
        },
        {"item_id": "c", "output_name": "c", "status": "review", "quality": 0.25, "quality_calibrated": True},
        {"item_id": "d", "output_name": "d", "status": "failed", "error_code": "fetch", "error_detail": "gone"},
    ]
    (row,) = commit_batch(pa.Table.from_pylist(rows, INDEX), context=context).to_pylist()
    assert [name for part in read_index(context.output) for name in part["item_id"].to_pylist()] == ["a", "b", "c", "d"]
    assert (row["ok"], row["review"], row["failed"], row["model_s"]) == (2, 1, 1, 3.0)
    expected = (row["expected_items"], row["expected_mean"], row["expected_variance"])
    assert expected == pytest.approx((2, 0.75, 0.4375))
    assert '"count": 1' in row["failures"]


def test_nothing_is_expected_of_qualities_that_are_not_calibrated(stage_context: Any) -> None:
    rows = [{"item_id": "a", "output_name": "a", "status": "ok", "quality": 0.75, "quality_calibrated": False}]
    (row,) = commit_batch(pa.Table.from_pylist(rows, INDEX), context=stage_context()).to_pylist()
    assert (row["expected_items"], row["expected_mean"]) == (0, 0.0)
