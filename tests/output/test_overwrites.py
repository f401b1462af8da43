"""Replaced objects: after a check, no row contradicts its objects, whatever was interrupted."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import PipelineError, StorageError, WriteError
from pipeline.output.index import read_index, write_part
from pipeline.output.output import Output
from pipeline.output.overwrites import check_overwrites, note_overwrites
from pipeline.output.verify import repair
from pipeline.schema import INDEX
from pipeline.storage.files import Files

OLD, NEW = "20260101T000000Z-a", "20260102T000000Z-b"


@pytest.fixture
def output(where: Any) -> Output:
    return Output.at(f"{where.root}/out", where.files)


def write_mask(output: Output, item_id: str, data: bytes) -> None:
    output.write(output.layout.uri(f"masks/{item_id}.png"), data)


def row(item_id: str, data: bytes, run_id: str = OLD, **columns: Any) -> dict[str, Any]:
    """The index row of an item whose mask is ``data``."""
    facts = {"mask_path": f"masks/{item_id}.png", "mask_bytes": len(data), "mask_sha256": hashlib.sha256(data).hexdigest()}
    return {"item_id": item_id, "output_name": item_id, "status": "ok", "run_id": run_id} | facts | columns


def commit(output: Output, *rows: dict[str, Any]) -> str:
    return write_part(output, pa.Table.from_pylist(list(rows), INDEX))


def note(output: Output, *item_ids: str, run_id: str = NEW, complete: bool = True) -> None:
    note_overwrites(output, run_id, item_ids, complete=complete)


def ids(output: Output) -> list[str]:
    return sorted(item_id for part in read_index(output, ["item_id"]) for item_id in part["item_id"].to_pylist())


def notes(output: Output) -> list[str]:
    return [info.uri for info in output.files.list(output.layout.overwrites)]


def make_old(output: Output, *item_ids: str) -> None:
    """Items of an earlier run, in one part."""
    for item_id in item_ids:
        write_mask(output, item_id, b"old")
    commit(output, *(row(item_id, b"old") for item_id in item_ids))


def test_without_notes_nothing_is_compared(output: Output) -> None:
    make_old(output, "a", "b")
    write_mask(output, "a", b"damaged")
    assert check_overwrites(output) == 0
    assert ids(output) == ["a", "b"]


def test_a_task_that_committed_is_trusted(output: Output) -> None:
    make_old(output, "a", "b")
    note(output, "a", "b")
    commit(output, row("a", b"new", NEW), row("b", b"new", NEW))
    write_mask(output, "b", b"new")
    write_mask(output, "a", b"never read")
    assert check_overwrites(output) == 0
    assert ids(output) == ["a", "b"] and notes(output) == []


def test_items_without_a_row_of_the_run_are_compared(output: Output) -> None:
    make_old(output, "a", "b", "c")
    note(output, "a", "b", "unknown")
    write_mask(output, "a", b"new")
    assert check_overwrites(output) == 1
    assert ids(output) == ["b", "c"] and notes(output) == []
    (moved,) = output.files.list(output.layout.superseded)
    assert output.files.read(moved.uri)
    assert check_overwrites(output) == 0


def test_a_row_of_another_run_is_not_the_row_of_the_task(output: Output) -> None:
    make_old(output, "a")
    note(output, "a", run_id=OLD)
    note(output, "b", run_id=NEW)
    write_mask(output, "b", b"new")
    commit(output, row("b", b"old"))
    assert check_overwrites(output) == 1
    assert ids(output) == ["a"]


def test_items_that_two_attempts_wrote_are_compared(output: Output) -> None:
    """The first attempt commits last, with other bits than those that the second one has written over its own."""
    for item_id in ("a", "b"):
        note(output, item_id)
        note(output, item_id)
        commit(output, row(item_id, b"first", NEW))
    write_mask(output, "a", b"second")
    write_mask(output, "b", b"first")
    assert check_overwrites(output) == 1
    assert ids(output) == ["b"]


def test_items_of_an_incomplete_note_are_compared(output: Output) -> None:
    """A task that found an object in its way, and notes no others, may be one of several attempts."""
    for item_id in ("a", "b"):
        note(output, item_id, complete=False)
        commit(output, row(item_id, b"new", NEW))
    write_mask(output, "a", b"other")
    write_mask(output, "b", b"new")
    assert check_overwrites(output) == 1
    assert ids(output) == ["b"]


def test_a_missing_object_and_a_damaged_rendition_contradict_the_row(output: Output) -> None:
    entry = {"name": "small", "path": "small/b.jpg", "sha256": hashlib.sha256(b"small").hexdigest()}
    unwritten = {"name": "small", "path": None, "note": "the mask is empty"}
    commit(output, row("a", b"old"), row("b", b"old", renditions=[entry]), row("c", b"old", renditions=[unwritten]))
    for item_id in ("b", "c"):
        write_mask(output, item_id, b"old")
    output.write(output.layout.uri("small/b.jpg"), b"large")
    note(output, "a", "b", "c")
    assert check_overwrites(output) == 2
    assert ids(output) == ["c"]


def test_failed_items_have_no_objects_to_compare(output: Output) -> None:
    none = {"mask_path": None, "mask_bytes": None, "mask_sha256": None, "status": "failed", "error_code": "fetch"}
    commit(output, row("a", b"", **none))
    note(output, "a")
    assert check_overwrites(output) == 0
    assert ids(output) == ["a"]


def test_a_hostile_row_reads_nothing_outside_the_output(where: Any, output: Output) -> None:
    where.put("secret", b"secret")
    commit(output, row("a", b"secret", mask_path="../secret"))
    note(output, "a")
    assert check_overwrites(output) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"run_id": "x", "complete": true}', b'{"run_id": 3, "complete": 1, "item_ids": [[]]}', b"[" * 5000],
)
def test_a_damaged_note_is_refused_and_repaired(local: Any, content: bytes) -> None:
    output = Output.at(f"{local.root}/out", local.files)
    make_old(output, "a")
    note(output, "a")
    damaged = f"{output.layout.overwrites}/{NEW}-0.json"
    output.write(damaged, content)
    with pytest.raises(StorageError, match=r"-0\.json cannot be read \(.*\); run matteline verify --repair"):
        check_overwrites(output)
    assert ids(output) == ["a"] and len(notes(output)) == 2
    repair(output, "repair")
    assert notes(output) == [] and check_overwrites(output) == 0


def test_a_note_names_its_run_and_its_items(output: Output) -> None:
    note(output, "größe/1", "b")
    (uri,) = notes(output)
    assert uri.startswith(f"{output.layout.overwrites}/{NEW}-")
    assert json.loads(output.files.read(uri)) == {"run_id": NEW, "complete": True, "item_ids": ["größe/1", "b"]}


@pytest.mark.parametrize(("steps", "kept"), list(enumerate([["a", "b"], ["a", "b"], ["b"], [], ["a", "b"]])))
def test_a_replacement_may_end_after_any_step(output: Output, steps: int, kept: list[str]) -> None:
    make_old(output, "a", "b")
    protocol = (
        lambda: note(output, "a", "b"),
        lambda: write_mask(output, "a", b"new"),
        lambda: write_mask(output, "b", b"new"),
        lambda: commit(output, row("a", b"new", NEW), row("b", b"new", NEW)),
    )
    for step in protocol[:steps]:
        step()
    assert check_overwrites(output) == 2 - len(kept)
    assert ids(output) == kept and notes(output) == []
    for part in read_index(output):
        for one in part.to_pylist():
            assert hashlib.sha256(output.read(one["mask_path"])).hexdigest() == one["mask_sha256"]


@pytest.mark.parametrize("steps", range(9))
def test_an_interrupted_check_can_be_repeated(local: Any, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Two parts with a wrong row each: two copies, one new part, two removals, and the removal of three notes."""
    output = Output.at(f"{local.root}/out", local.files)
    make_old(output, "a", "b")
    make_old(output, "c")
    for item_id in ("a", "b", "c"):
        note(output, item_id)
    for item_id in ("a", "c"):
        write_mask(output, item_id, b"new")
    remaining = steps

    def counted(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal remaining
            if remaining == 0:
                raise WriteError("interrupted")
            remaining -= 1
            return real(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.output.overwrites.THREADS", 1)
        patched.setattr(Files, "write", counted(Files.write))
        patched.setattr(Files, "delete", counted(Files.delete))
        if steps < 8:
            with pytest.raises(PipelineError, match="interrupted"):
                check_overwrites(output)
            assert notes(output), "a note stays until all rows are right"
        else:
            assert check_overwrites(output) == 2
    assert "b" in ids(output)
    check_overwrites(output)
    assert ids(output) == ["b"] and notes(output) == []
    assert [part.num_rows for part in read_index(output)] == [1]
