"""Of an item's rows the newest stays, compared with a plain implementation on random indexes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.output.index import read_index, write_part
from pipeline.output.output import Output
from pipeline.output.reconcile import reconcile
from pipeline.schema import INDEX

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def output(local: Any) -> Output:
    return Output.at(f"{local.root}/out", local.files)


def rows_of(output: Output) -> list[dict[str, Any]]:
    return [row for part in read_index(output) for row in part.to_pylist()]


def write(output: Output, rows: list[dict[str, Any]]) -> str:
    needed = {"status": "ok"}
    return write_part(output, pa.Table.from_pylist([needed | row | {"output_name": row["item_id"]} for row in rows], INDEX))


@pytest.mark.parametrize("seed", range(8))
def test_random_indexes(output: Output, seed: int) -> None:
    """Few ids, runs and times, so that rows tie in every way. Rows without a run or a time are the oldest."""
    rng = np.random.default_rng(seed)
    runs, times = [None, "20260101T000000Z-a", "20260102T000000Z-b"], [None, NOON, NOON + timedelta(hours=1)]
    for _ in range(12):
        size = int(rng.integers(1, 9))
        write(
            output,
            [
                {
                    "item_id": f"item-{rng.integers(20)}",
                    "run_id": runs[rng.integers(3)],
                    "finished_at": times[rng.integers(3)],
                    "worker": str(rng.integers(1 << 30)),
                }
                for _ in range(size)
            ],
        )
    before = rows_of(output)

    def rank(row: dict[str, Any]) -> tuple[str, float]:
        return row["run_id"] or "", row["finished_at"].timestamp() if row["finished_at"] else 0.0

    newest = {item_id: max(rank(row) for row in before if row["item_id"] == item_id) for item_id in _ids(before)}
    reconcile(output)
    after = rows_of(output)
    assert sorted(_ids(after)) == sorted(row["item_id"] for row in after), "an item has two rows"
    assert {row["item_id"]: rank(row) for row in after} == newest
    assert all(row in before for row in after)
    assert reconcile(output) == 0


def test_of_equal_rows_that_of_the_larger_part_stays(output: Output) -> None:
    """It was merged from the smaller ones, which another process may be deleting."""
    rows = [{"item_id": name, "run_id": "r", "finished_at": NOON} for name in "abcdef"]
    pieces = [write(output, rows[:2]), write(output, rows[2:4]), write(output, rows[4:])]
    merged = write(output, rows)
    assert reconcile(output) == 6
    assert [part.uri for part in output.parts()] == [merged]
    assert {uri.rpartition("/")[2] for uri in pieces} == {
        info.uri.rpartition("/")[2] for info in output.files.list(output.layout.superseded)
    }


def _ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["item_id"] for row in rows}
