"""Large outputs are verified and cleaned in buckets, stretches and shares, with the findings of a small one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.concurrency import Each, in_this_process
from pipeline.config.job import Compute, Storage
from pipeline.imaging.png import encode_mask
from pipeline.manifest.manifest import open_manifest
from pipeline.output import buckets, gc, listing, read_objects, verify
from pipeline.output.findings import VerifyReport
from pipeline.output.gc import GcReport, collect_garbage
from pipeline.output.index import read_index, write_part
from pipeline.output.output import Output
from pipeline.output.overwrites import note_overwrites
from pipeline.output.settings import write_settings
from pipeline.run.each import workers
from pipeline.schema import INDEX
from pipeline.storage.files import Files

MASK = encode_mask(np.zeros((3, 4), np.uint8))
ITEMS, PARTS = 48, 8
FACTS = {"bytes": len(MASK), "sha256": hashlib.sha256(MASK).hexdigest(), "height": 3, "width": 4}


def row(number: int, **columns: Any) -> dict[str, Any]:
    """An index row with a mask and a rendition."""
    name = f"shelf-{number % 3}/item-{number:03}"
    item = {"item_id": name, "output_name": name, "status": "ok", "quality": 1.0, "height": 3, "width": 4}
    mask = {"mask_path": f"masks/{name}.png", "mask_bytes": FACTS["bytes"], "mask_sha256": FACTS["sha256"]}
    return item | mask | {"renditions": [{"name": "x", "path": f"x/{name}.png", **FACTS}]} | columns


def write_rows(output: Output, rows: list[dict[str, Any]]) -> None:
    write_part(output, pa.Table.from_pylist(rows, INDEX))


@pytest.fixture
def output(local: Any, fake_settings: dict[str, Any]) -> Output:
    """A sound output of ``PARTS`` parts."""
    return make(local, fake_settings, ITEMS, PARTS)


def make(where: Any, fake_settings: dict[str, Any], items: int, parts: int) -> Output:
    made = Output.at(f"{where.root}/out", where.files)
    write_settings(made, fake_settings | {"folders": ["x"]})
    for part in range(parts):
        rows = [row(number) for number in range(part, items, parts)]
        for one in rows:
            for path in (one["mask_path"], one["renditions"][0]["path"]):
                made.write(made.layout.uri(path), MASK)
        write_rows(made, rows)
    return made


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat any output as a large one."""
    monkeypatch.setattr(buckets, "INDEX_BYTES", 10_000)
    monkeypatch.setattr(buckets, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(buckets, "BATCH_ROWS", 5)
    monkeypatch.setattr(listing, "STRETCH", 10)
    monkeypatch.setattr(read_objects, "SHARE_BYTES", 5000)
    monkeypatch.setattr(read_objects, "CHUNK", 2)
    monkeypatch.setattr(gc, "DELETIONS", 2)


def damage(output: Output) -> None:
    uri = output.layout.uri
    output.write(uri("masks/shelf-0/item-000.png"), MASK[:-3])
    output.files.delete(uri("x/shelf-1/item-001.png"))
    for number in range(25):
        output.write(uri(f"masks/shelf-9/orphan-{number}.png"), MASK)
    write_rows(output, [row(2)])
    write_rows(output, [row(50, status="failed"), row(51, error_code="fetch"), row(52, quality=None)])
    note = {"name": "x", "path": None, "note": ""}
    write_rows(output, [row(53, renditions=[note]), row(54, renditions=[note | {"note": "enlarged"}]), row(55, mask_path=None)])


def manifest_of(tmp_path: Path) -> Any:
    path = tmp_path / "manifest.csv"
    ids = [f"shelf-{number % 3}/item-{number:03}" for number in range(5, 60)]
    path.write_text("item_id,image_uri\n" + "".join(f"{item_id},{number}.jpg\n" for number, item_id in enumerate(ids)))
    return open_manifest(str(path), Files())


def facts(report: VerifyReport) -> dict[str, Any]:
    """The report, with examples sorted where they are complete."""
    complete = {kind: sorted(named) for kind, named in report.examples.items() if len(named) == report.counts[kind]}
    return asdict(report) | {"examples": complete}


@pytest.mark.parametrize("sample", [1.0, 0.0])
def test_the_findings_are_those_of_one_piece(
    output: Output, tmp_path: Path, sample: float, request: pytest.FixtureRequest
) -> None:
    damage(output)
    manifest = manifest_of(tmp_path)
    whole = verify.verify(output, manifest, sample=sample)
    request.getfixturevalue("in_pieces")
    assert buckets.bucket_count(output.parts()) > 2 and len(read_objects.shares_of(list(output.parts()))) > PARTS
    pieces = verify.verify(output, manifest, sample=sample)
    assert facts(pieces) == facts(whole)
    expected = {"orphan": 25, "twice": 1, "missing": 6, "unknown": 5, "incoherent": 4}
    expected |= {"other": 48}  # the rows name no images
    expected |= {"absent": 10}  # the deleted one, and those of the six rows that were added without objects
    read = {"changed": 1, "undecodable": 1} if sample else {}
    assert whole.counts == expected | read


def test_the_sample_is_a_share_of_the_items_and_the_same_each_time(output: Output) -> None:
    objects = [verify.verify(output, sample=0.5, seed=seed).objects for seed in (0, 0, 1, 2)]
    assert objects[0] == objects[1]
    assert all(0.25 * 2 * ITEMS < count < 0.75 * 2 * ITEMS for count in objects)


def test_garbage_is_that_of_one_piece(output: Output, request: pytest.FixtureRequest) -> None:
    damage(output)
    output.write(f"{output.layout.superseded}/part-1.parquet", b"old")
    output.write(output.layout.uri("masks/shelf-1/.x.png.0123456789abcdef.tmp"), b"half")
    whole = collect_garbage(output, "run", delete=False, min_age_s=-60)
    request.getfixturevalue("in_pieces")
    assert collect_garbage(output, "run", delete=False, min_age_s=-60) == whole
    assert whole.files == {"object": 25, "part": 1, "temporary": 1}
    assert collect_garbage(output, "run", delete=True, min_age_s=-60) == whole
    assert collect_garbage(output, "run", delete=False, min_age_s=-60) == GcReport()
    assert len(list(output.files.list(output.layout.uri("masks")))) == ITEMS


def after(count: int, error: BaseException) -> Each:
    """Fail after so many tables."""

    def each(step: Callable[[Any], Iterator[Any]], units: Sequence[Any]) -> Iterator[Any]:
        for number, table in enumerate(in_this_process(step, units)):
            if isinstance(step, read_objects.Reading) and number == count:
                raise error
            yield table

    return each


def test_an_interrupted_verification_continues(
    output: Output, in_pieces: None, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    output.write(output.layout.uri("masks/shelf-0/item-000.png"), MASK[:-3])
    with pytest.raises(KeyboardInterrupt):
        verify.verify(output, each=after(9, KeyboardInterrupt()))
    record = json.loads(output.files.read(output.layout.verify))
    assert 7 <= len(record["done"]) <= 9 and record["objects"] > 7

    read: list[str] = []
    original = Output.read
    monkeypatch.setattr(Output, "read", lambda self, path: (read.append(path), original(self, path))[1])
    report = verify.verify(output)
    assert report.counts == {"changed": 1, "undecodable": 1}
    assert (report.rows, report.objects) == (ITEMS, 2 * ITEMS)
    assert len(read) == 2 * ITEMS - record["objects"], "what was found intact is not read again; what was damaged is"
    assert "objects were read since" in " ".join(one.getMessage() for one in logged)
    assert not output.files.exists(output.layout.verify)


@pytest.mark.parametrize("change", ["index", "sample", "content"])
def test_the_progress_of_another_verification_is_not_used(output: Output, in_pieces: None, change: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        verify.verify(output, each=after(9, KeyboardInterrupt()))
    if change == "index":
        write_rows(output, [row(0)])
    if change == "content":
        output.write(output.layout.verify, b"[1")
    report = verify.verify(output, sample=0.999 if change == "sample" else 1.0)
    assert report.objects == 2 * ITEMS + 2 * (change == "index")
    assert not output.files.exists(output.layout.verify), "it is out of date"


def test_a_reader_without_write_permission_can_verify(
    s3: Any, remote: Any, fake_settings: dict[str, Any], in_pieces: None
) -> None:
    made = Output.at(f"{remote.root}/out", remote.files)
    write_settings(made, fake_settings)
    for number in range(4):
        made.write(made.layout.uri(row(number)["mask_path"]), MASK)
        write_rows(made, [row(number, renditions=None)])
    reader = Files(Storage(**(s3.settings | {"key": s3.reader_key, "secret": s3.reader_secret})))
    report = verify.verify(Output.at(made.folder, reader))
    assert report.sound and report.objects == 4


def test_a_repair_continues_and_removes_the_damaged(output: Output, in_pieces: None) -> None:
    output.files.delete(output.layout.uri("masks/shelf-0/item-000.png"))
    write_rows(output, [row(50, error_code="fetch")])
    with pytest.raises(KeyboardInterrupt):
        verify.repair(output, "run-1", each=after(9, KeyboardInterrupt()))
    assert verify.repair(output, "run-2").repaired == 2
    ids = [item_id for part in read_index(output, ["item_id"]) for item_id in part["item_id"].to_pylist()]
    assert len(ids) == ITEMS - 1 and row(0)["item_id"] not in ids


def test_a_repair_reads_what_was_intact_before_it_was_overwritten(output: Output, in_pieces: None) -> None:
    """A verify is interrupted; then a run that replaces items is killed after it has overwritten an object."""
    with pytest.raises(KeyboardInterrupt):
        verify.verify(output, each=after(9, KeyboardInterrupt()))
    ids = [row(number)["item_id"] for number in range(ITEMS)]
    note_overwrites(output, "run-2", ids, complete=True)
    for item_id in ids:
        output.write(output.layout.uri(f"masks/{item_id}.png"), encode_mask(np.ones((3, 4), np.uint8)))
    report = verify.repair(output, "run-3")
    assert (report.repaired, report.objects) == (ITEMS, 2 * ITEMS), "the notes are deleted, so all objects must have been read"
    assert not list(output.files.list(output.layout.overwrites))


def test_on_ray_the_findings_are_the_same(
    remote: Any, ray_session: None, fake_settings: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made = make(remote, fake_settings, 12, 2)
    damage(made)
    whole, garbage = verify.verify(made), collect_garbage(made, "run", delete=False, min_age_s=-60)
    request.getfixturevalue("in_pieces")
    with workers(Compute(local_items=0), [made], 1.0) as each:
        assert each is not in_this_process
        assert facts(verify.verify(made, each=each)) == facts(whole)
        assert collect_garbage(made, "run", delete=True, min_age_s=-60, each=each) == garbage
    assert garbage.files["object"] == 25
    assert len(list(made.files.list(made.layout.uri("masks")))) == 12


def test_small_outputs_need_no_ray(output: Output) -> None:
    with workers(Compute(), [output], 1.0) as each:
        assert each is in_this_process
