"""Test the stage that holds the model without Ray: batches that crashed a process, and lost GPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.models.failures import BrokenDevice
from pipeline.run.crash_ledger import MAX_CRASHES, InMemoryLedger
from pipeline.run.stages.columns import pack
from pipeline.run.stages.segment import SegmentBatch

SHAPE = (40, 60)


@pytest.fixture
def ledger() -> InMemoryLedger:
    return InMemoryLedger()


@pytest.fixture
def stage(stage_context: Any, ledger: InMemoryLedger) -> SegmentBatch:
    return SegmentBatch(stage_context(["limits.item_s=60"], ledger=ledger))


def batch(*ids: str) -> pa.Table:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SHAPE, 3), np.uint8) for _ in ids]
    count = len(ids)
    return pa.table(
        {
            "item_id": list(ids),
            "pixels": pack(images),
            "height": pa.array([SHAPE[0]] * count, pa.int32()),
            "width": pa.array([SHAPE[1]] * count, pa.int32()),
            "box": pa.nulls(count, pa.list_(pa.float64())),
            "error_code": pa.nulls(count, pa.string()),
            "error_detail": pa.nulls(count, pa.string()),
        }
    )


def counted(stage: SegmentBatch) -> list[int]:
    """The sizes of the batches that reach the model from now on."""
    sizes: list[int] = []
    real = stage.segmenter.model

    def model(frames: Any) -> Any:
        sizes.append(len(frames))
        return real(frames)

    stage.segmenter.run_pass.model = model
    return sizes


def test_a_batch_goes_through_together_and_leaves_no_entry(stage: SegmentBatch, ledger: InMemoryLedger) -> None:
    sizes = counted(stage)
    done = stage(batch("a", "b", "c"))
    assert done["error_code"].null_count == 3 and sizes == [3]
    assert not ledger.started


def test_a_batch_larger_than_a_forward_pass_is_split(stage_context: Any, ledger: InMemoryLedger) -> None:
    stage = SegmentBatch(stage_context(ledger=ledger, batch_size=2))
    sizes = counted(stage)
    assert stage(batch("a", "b", "c"))["error_code"].null_count == 3 and sizes == [2, 1]


def test_after_a_death_items_go_alone_and_the_third_death_is_the_last(stage: SegmentBatch, ledger: InMemoryLedger) -> None:
    ledger.started = {"segment/a": 1, "segment/b": MAX_CRASHES, "segment/c": MAX_CRASHES - 1}
    sizes = counted(stage)
    done = stage(batch("a", "b", "c"))
    assert done["error_code"].to_pylist() == [None, "crash", None] and sizes == [1, 1]
    assert "3 processes crashed" in done["error_detail"][1].as_py()
    assert [mask is None for mask in done["mask"].to_pylist()] == [False, True, False]
    assert not ledger.started


def test_a_lost_gpu_ends_the_process_and_leaves_its_entry(
    stage: SegmentBatch, ledger: InMemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: Any) -> Any:
        raise BrokenDevice("CUDA error: an illegal memory access was encountered", 700)

    def die() -> None:
        raise SystemExit(70)

    monkeypatch.setattr("pipeline.run.crash_ledger.end_process", die)
    stage.segmenter.run_pass.model = lost
    with pytest.raises(SystemExit):
        stage(batch("a", "b"))
    assert {key: count for key, count in ledger.started.items() if "/" in key} == {"segment/a": 1, "segment/b": 1}
    for deaths in range(2, MAX_CRASHES + 1):  # alone now
        with pytest.raises(SystemExit):
            stage(batch("a", "b"))
        assert ledger.started["segment/a"] == deaths
    with pytest.raises(SystemExit):  # the next one's turn
        stage(batch("a", "b"))
    assert ledger.started["segment/b"] == 2


def test_without_a_ledger_a_lost_gpu_is_raised(stage_context: Any) -> None:
    stage = SegmentBatch(stage_context())

    def lost(_: Any) -> Any:
        raise BrokenDevice("CUDA error: an illegal memory access was encountered", 700)

    stage.segmenter.run_pass.model = lost
    with pytest.raises(BrokenDevice):
        stage(batch("a"))
