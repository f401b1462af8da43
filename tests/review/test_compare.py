"""Two outputs side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.index import read_part, write_part
from pipeline.output.output import Output
from pipeline.review.compare import compare, dice
from pipeline.schema import INDEX
from pipeline.storage.files import Files

MakeOutput = Callable[..., None]


def test_two_outputs_are_compared_item_by_item(tmp_path: Path, make_output: MakeOutput) -> None:
    one, other = (Output.at(str(tmp_path / name), Files()) for name in ("one", "two"))
    make_output(one)
    make_output(other, 50, grow=10)
    found = compare(one, other)
    assert (found.before, found.after, found.same, found.changed, found.vanished) == (61, 51, 49, 1, 10)
    assert [(change.item_id, change.dice) for change in found.worst] == [("i0", pytest.approx(800 / 1000))]
    assert found.worst[0].place == (0, 0), "a small image is one window"
    assert found.ks is not None and 0 <= found.ks < 0.1
    assert not found.drift["drifted"] and set(found.drift["shifts"]) == {"quality", "review", "failed"}
    assert dice(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)) == 1


def test_rows_that_an_interrupted_run_left_twice_are_compared(tmp_path: Path, make_output: MakeOutput) -> None:
    one, other = (Output.at(str(tmp_path / name), Files()) for name in ("one", "two"))
    make_output(one)
    make_output(other, grow=10)
    (part,) = other.parts()
    rows = [row | {"quality": 0.5} for row in read_part(part, other.files, None).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, INDEX), f"{other.layout.index}/part-again.parquet")
    assert [change.item_id for change in compare(one, other).worst] == ["i0", "i0"]


def test_a_video_with_the_same_file_is_the_same(tmp_path: Path) -> None:
    one, other = (Output.at(str(tmp_path / name), Files()) for name in ("one", "two"))
    for output, last in ((one, "b"), (other, "c")):
        videos = {"v0": "a", "v1": last}
        rows = [
            {"item_id": name, "output_name": name, "status": "ok", "quality": 0.5}
            | {"video_facts": {"files": [{"sha256": sha256}]}}
            for name, sha256 in videos.items()
        ]
        write_part(output, pa.Table.from_pylist(rows, INDEX))
    found = compare(one, other)
    assert (found.same, found.changed, found.incomparable) == (1, 1, 1)
    assert [(change.item_id, change.note) for change in found.worst] == [("v1", "of videos, only the quality is compared")]


def test_ten_times_as_many_failures_are_drift(tmp_path: Path, make_output: MakeOutput) -> None:
    one, other = (Output.at(str(tmp_path / name), Files()) for name in ("one", "two"))
    make_output(one, 600)
    make_output(other, 600, failed=60)
    found = compare(one, other)
    assert found.drift["drifted"] and "the share of failed by at least" in found.drift["said"]
