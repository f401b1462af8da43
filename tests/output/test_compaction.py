"""Small parts are merged while a run goes on, and whatever interrupts that, every item keeps one row."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import LeaseHeld, StorageError, WriteError
from pipeline.output import compaction
from pipeline.output.compaction import Compactor, compact, compact_full
from pipeline.output.index import read_index, write_part
from pipeline.output.output import Output
from pipeline.output.reconcile import reconcile
from pipeline.schema import INDEX
from pipeline.storage.files import Files

RUN = "20260101T000000.000Z-aaaaaa"


@pytest.fixture
def output(local: Any) -> Output:
    return Output.at(f"{local.root}/out", local.files)


@pytest.fixture
def add(output: Output) -> Callable[[], str]:
    """Commit a part of three further items, as a task of a run does, and return its URI."""
    numbers, rng = count(), random.Random(0)

    def noise() -> str:
        """So that a part with more rows is a larger file."""
        return rng.randbytes(8_000).hex()

    def add() -> str:
        first = next(numbers) * 3
        rows = [
            {"item_id": f"item-{number}", "output_name": f"item-{number}", "status": "ok", "run_id": RUN, "worker": noise()}
            for number in range(first, first + 3)
        ]
        return write_part(output, pa.Table.from_pylist(rows, INDEX))

    return add


@pytest.fixture
def four_fill_a_part(output: Output, add: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parts of ``add`` give a merged part of the full size, which is not small."""
    add()
    (size,) = (part.size for part in output.parts())
    output.files.delete(next(output.parts()).uri)
    monkeypatch.setattr(compaction, "MERGED_BYTES", int(size * 4.5))
    monkeypatch.setattr(compaction, "SMALL_BYTES", 2 * size)


def ids(output: Output) -> list[str]:
    return sorted(item_id for part in read_index(output, ["item_id"]) for item_id in part["item_id"].to_pylist())


def rows_per_part(output: Output) -> list[int]:
    return sorted(part.num_rows for part in read_index(output))


def agreed() -> None:
    """The lease is held."""


def test_pieces_are_deleted_side_by_side(output: Output, add: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other took an hour for ten million items on S3."""
    for _ in range(8):
        add()
    together, delete = threading.Barrier(4, timeout=20), Files.delete

    def waits_for_others(self: Files, uri: str) -> None:
        together.wait()
        delete(self, uri)

    monkeypatch.setattr(Files, "delete", waits_for_others)
    compact(output)
    assert rows_per_part(output) == [24]


@pytest.mark.usefixtures("four_fill_a_part")
def test_full_parts_are_merged_and_the_rest_waits(output: Output, add: Callable[[], str]) -> None:
    for _ in range(4):
        add()
    assert compact_full(output, agreed) == 0
    for _ in range(6):
        add()
    before = ids(output)
    assert compact_full(output, agreed) == 8
    assert rows_per_part(output) == [3, 3, 12, 12]
    assert ids(output) == before and len(set(before)) == 30
    assert not list(output.files.list(output.layout.superseded))
    assert compact(output) == 2
    assert rows_per_part(output) == [6, 12, 12]


@pytest.mark.usefixtures("four_fill_a_part")
def test_parts_that_are_still_read_stay(output: Output, add: Callable[[], str]) -> None:
    read = {add() for _ in range(5)}
    for _ in range(5):
        add()
    assert compact_full(output, agreed, keep=read) == 4
    assert read < {part.uri for part in output.parts()}


@pytest.mark.usefixtures("four_fill_a_part")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(11))
def test_a_crash_at_any_step_of_a_compaction_during_a_run(
    output: Output, add: Callable[[], str], monkeypatch: pytest.MonkeyPatch, step: int, after: bool
) -> None:
    """Two merged parts are written and eight pieces deleted. A crash comes before or after one of these ten steps."""
    for _ in range(9):
        add()
    before, steps, lock = ids(output), count(), threading.Lock()

    def crashing(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            with lock:
                number = next(steps)
                if number < step or (after and number == step):
                    real(*arguments)
                if number >= step:
                    raise WriteError("killed")

        return call

    with monkeypatch.context() as patched:
        for name in ("write", "delete"):
            patched.setattr(Files, name, crashing(getattr(Files, name)))
        if step < 10:
            with pytest.raises((StorageError, WriteError)):
                compact_full(output, agreed)
        else:
            assert compact_full(output, agreed) == 8
    assert sorted(set(ids(output))) == before, "a row was lost"
    assert {add(), add()}, "workers of the killed run may live on for a moment"
    reconcile(output)
    assert len(ids(output)) == len(set(ids(output))) == 33
    assert reconcile(output) == 0
    compact(output)
    assert len(ids(output)) == 33


@pytest.mark.usefixtures("four_fill_a_part")
@pytest.mark.parametrize("checks", [0, 1])
def test_without_the_lease_nothing_is_written_and_nothing_deleted(output: Output, add: Callable[[], str], checks: int) -> None:
    """The lease is lost before the merged part is written, or before its pieces are deleted."""
    pieces, remaining = {add() for _ in range(5)}, count(checks, -1)

    def check() -> None:
        if next(remaining) == 0:
            raise LeaseHeld("taken over")

    with pytest.raises(LeaseHeld):
        compact_full(output, check)
    merged = {part.uri for part in output.parts()} - pieces
    assert pieces < {part.uri for part in output.parts()} or not merged
    assert len(merged) == checks
    # The next run keeps the rows of the merged part, so it is harmless if this run still deletes one of its pieces.
    assert reconcile(output) == 12 * checks
    assert merged < {part.uri for part in output.parts()} or not merged
    for piece in pieces if merged else ():
        output.files.delete(piece)
    assert len(ids(output)) >= 12


@pytest.mark.usefixtures("four_fill_a_part")
def test_a_run_never_has_many_small_parts(output: Output, add: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "CHECK_EVERY", 2)
    with Compactor(output, agreed) as compactor:
        for _ in range(30):
            add()
            compactor.part_added()
            assert compactor._running is None or compactor._running.result()
            assert len(list(output.parts())) <= 5 + 2 + 30 // 4
    assert len(ids(output)) == len(set(ids(output))) == 90
    assert rows_per_part(output)[-6:] == [12] * 6


@pytest.mark.usefixtures("four_fill_a_part")
def test_compaction_delays_no_part(output: Output, add: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one compaction hangs, parts are counted and no second one begins."""
    monkeypatch.setattr(compaction, "CHECK_EVERY", 1)
    begun, go_on = threading.Event(), threading.Event()

    def check() -> None:
        begun.set()
        go_on.wait(60)

    with Compactor(output, check) as compactor:
        while not begun.is_set():
            add()
            compactor.part_added()
        for _ in range(20):
            add()
            compactor.part_added()
        parts = len(list(output.parts()))
        assert set(rows_per_part(output)) == {3}
        go_on.set()
    assert len(list(output.parts())) < parts
    assert len(ids(output)) == len(set(ids(output))) == 3 * parts


def test_a_run_goes_on_without_compaction(
    output: Output, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    output.write(output.layout.part(["a"]), b"not Parquet")
    monkeypatch.setattr(compaction, "CHECK_EVERY", 1)
    monkeypatch.setattr(compaction, "MERGED_BYTES", 15)
    monkeypatch.setattr(compaction, "SMALL_BYTES", 15)
    output.write(output.layout.part(["b"]), b"not Parquet")
    with Compactor(output, agreed) as compactor:
        for _ in range(3):
            compactor.part_added()
            assert compactor._running is not None
            assert not compactor._running.result()
    assert ["not compacted" in one.getMessage() for one in logged] == [True]
    assert len(list(output.parts())) == 2


def test_an_error_in_the_program_ends_the_run(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "CHECK_EVERY", 1)
    monkeypatch.setattr(compaction, "compact_full", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), Compactor(output, agreed) as compactor:
        compactor.part_added()


def test_a_run_compacts_while_it_goes_on(
    tmp_path: Path, fake_preset: str, make_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the compaction at its end, as after a kill, it leaves few parts."""
    from pipeline.config.job import load_job
    from pipeline.run import passes
    from pipeline.run.driver import run_job

    make_photos(tmp_path / "photos", 24)
    job = load_job(
        manifest=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=["compute.rows_per_part=1", "compute.batch_size=1"],
    )
    monkeypatch.setattr(compaction, "CHECK_EVERY", 2)
    monkeypatch.setattr(compaction, "MERGED_BYTES", 100_000)
    monkeypatch.setattr(passes, "tidy_index", lambda _output, _done: None)
    run_job(job)
    output = Output.at(str(tmp_path / "out"), Files())
    assert len(ids(output)) == len(set(ids(output))) == 24
    assert len(list(output.parts())) <= 12
