"""Changed items are reprocessed, and garbage is collected."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipeline.config.job import Job, load_job
from pipeline.errors import LeaseHeld
from pipeline.manifest.manifest import open_manifest
from pipeline.output.gc import collect_garbage
from pipeline.output.lease import Lease
from pipeline.output.output import Output
from pipeline.output.verify import verify
from pipeline.run.driver import run_job
from pipeline.storage.files import Files
from pipeline.storage.local import LocalBackend

MakePhotos = Callable[..., list[Path]]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["item_id", "image_uri", "x0", "y0", "x1", "y1"])
        writer.writeheader()
        writer.writerows(rows)


def rows_of(output: Output) -> dict[str, dict[str, Any]]:
    rows = ds.dataset(output.layout.index, format="parquet").to_table().to_pylist()
    assert len({row["item_id"] for row in rows}) == len(rows)
    return {row["item_id"]: row for row in rows}


@pytest.fixture
def job(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> Job:
    """Six photos with ids of their own, one with a box."""
    make_photos(tmp_path / "photos", 6)
    rows: list[dict[str, Any]] = [{"item_id": f"sku-{n}", "image_uri": f"photos/photo-00{n}.jpg"} for n in range(6)]
    rows[5] |= {"x0": 10, "y0": 10, "x1": 100, "y1": 80}
    write_manifest(tmp_path / "manifest.csv", rows)
    return load_job(
        manifest=str(tmp_path / "manifest.csv"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=["compute.rows_per_part=4", "budget.max_failed_share=1"],
    )


def findings(job: Job, output: Output) -> dict[str, int]:
    return verify(output, open_manifest(job.manifest, Files())).counts


def test_only_changed_items_are_reprocessed(tmp_path: Path, job: Job, make_photos: MakePhotos) -> None:
    plan, _ = run_job(job)
    first, output, photos = rows_of(plan.output), plan.output, tmp_path / "photos"

    assert run_job(job.with_run(changed=True))[0].todo == 0
    os.utime(photos / "photo-000.jpg", (1, 1))  # a new time, the same bytes
    shutil.copy(photos / "photo-001.jpg", photos / "copy.jpg")
    (photos / "copy.jpg").replace(photos / "photo-001.jpg")  # a new file, the same bytes
    (photos / "photo-004.jpg").unlink()  # missing: its results stay
    assert run_job(job.with_run(changed=True))[0].todo == 0

    (other, another) = make_photos(tmp_path / "other", 2, first=10)
    (photos / "photo-002.jpg").write_bytes(other.read_bytes())
    rows: list[dict[str, Any]] = [{"item_id": f"sku-{n}", "image_uri": f"photos/photo-00{n}.jpg"} for n in range(6)]
    shutil.copy(another, photos / "photo-009.jpg")
    rows[3]["image_uri"] = "photos/photo-009.jpg"  # a changed URI
    rows[5] |= {"x0": 20, "y0": 10, "x1": 100, "y1": 80}  # a changed box
    write_manifest(tmp_path / "manifest.csv", rows)
    assert run_job(job)[0].todo == 0, "changes are detected on request only"
    plan, record = run_job(job.with_run(changed=True))
    assert (plan.todo, record.ok + record.review) == (3, 3)
    second = rows_of(output)
    assert {item for item in second if second[item]["finished_at"] != first[item]["finished_at"]} == {"sku-2", "sku-3", "sku-5"}
    assert all(second[item]["mask_sha256"] != first[item]["mask_sha256"] for item in ("sku-2", "sku-3", "sku-5"))
    assert all(second[item]["mask_path"] == first[item]["mask_path"] == f"masks/{item}.png" for item in second)
    assert findings(job, output) == {}, "the names of objects stay"
    assert run_job(job.with_run(changed=True))[0].todo == 0


def test_gc_removes_exactly_the_garbage(tmp_path: Path, job: Job, make_photos: MakePhotos) -> None:
    plan, _ = run_job(job)
    output, layout, masks = plan.output, plan.output.layout, Path(plan.output.layout.outputs("mask"))
    (tmp_path / "photos" / "photo-002.jpg").write_bytes(make_photos(tmp_path / "other", 1, first=10)[0].read_bytes())
    run_job(job.with_run(changed=True))
    (masks / "shelf").mkdir()
    for crashed in (masks / "crashed.png", masks / "shelf" / "crashed.png"):
        crashed.write_bytes(b"without a row")
    (masks / "shelf" / ".x.png.0123456789abcdef.tmp").write_bytes(b"half")
    (Path(layout.index) / ".part-0.parquet.0123456789abcdef.tmp").write_bytes(b"half")
    kept = [masks / "shelf" / name for name in (".hidden.png", ".mine.tmp", ".x.0123456789abcdef.tmp.txt")]
    kept += [Path(layout.reviews) / "reviews-1.parquet", Path(layout.evaluation) / "part-1.parquet"]
    kept += [Path(output.folder) / "mine" / "x.png", Path(output.folder) / "report.html"]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not written by a run, or not an object")

    def files() -> list[Path]:
        return sorted(path for path in Path(output.folder).rglob("*") if path.parent.name != "lease")

    before = files()
    found = collect_garbage(output, "gc", delete=False, min_age_s=0)
    assert found.files["object"] == 2 and found.files["temporary"] == 2 and found.files["part"] >= 1
    assert all(found.bytes[kind] > 0 for kind in found.bytes)
    assert files() == before, "a dry run removes nothing"

    assert sum(collect_garbage(output, "gc", delete=True).files.values()) == 0, "all of it is younger than an hour"
    assert collect_garbage(output, "gc", delete=True, min_age_s=0) == found
    assert sum(collect_garbage(output, "gc", delete=False, min_age_s=0).files.values()) == 0
    assert findings(job, output) == {}
    assert len(list(masks.glob("*.png"))) == 6
    assert all(path.exists() for path in kept)


def test_files_of_unknown_age_are_young(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some stores list no time, or one that is not understood."""
    plan, _ = run_job(job)
    crashed = Path(plan.output.layout.outputs("mask")) / "crashed.png"
    crashed.write_bytes(b"without a row")
    scan = LocalBackend.scan

    def without_times(self: LocalBackend, *arguments: Any) -> Iterator[pa.Table]:
        for table in scan(self, *arguments):
            yield table.set_column(2, "modified", pa.array([0.0] * table.num_rows))

    with monkeypatch.context() as patched:
        patched.setattr(LocalBackend, "scan", without_times)
        assert sum(collect_garbage(plan.output, "gc", delete=True, min_age_s=0).files.values()) == 0
    assert crashed.exists()
    assert collect_garbage(plan.output, "gc", delete=True, min_age_s=0).files["object"] == 1


def test_gc_keeps_the_objects_of_a_moved_output(tmp_path: Path, job: Job) -> None:
    run_job(job)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = Output.at(str(tmp_path / "moved"), Files())
    assert sum(collect_garbage(moved, "gc", delete=True, min_age_s=0).files.values()) == 0
    assert len(list(Path(moved.folder).rglob("*.png"))) == 12


def test_gc_is_refused_during_a_run(job: Job) -> None:
    plan, _ = run_job(job)
    with Lease(plan.output, "run-a"), pytest.raises(LeaseHeld, match="run-a"):
        collect_garbage(plan.output, "gc", delete=True, min_age_s=0)
