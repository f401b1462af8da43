"""Changed images, and what they and crashes leave behind."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from pipeline.config.job import Job, load_job
from pipeline.errors import LeaseHeld
from pipeline.manifest.manifest import open_manifest
from pipeline.output.gc import sweep
from pipeline.output.layout import Layout
from pipeline.output.lease import Lease
from pipeline.output.verify import verify
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

pytestmark = pytest.mark.usefixtures("ray_session")
MakePhotos = Callable[..., list[Path]]


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["item_id", "image_uri", "x0", "y0", "x1", "y1"])
        writer.writeheader()
        writer.writerows(rows)


def rows_of(layout: Layout) -> dict[str, dict[str, Any]]:
    rows = ds.dataset(layout.index, format="parquet").to_table().to_pylist()
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


def check(job: Job, layout: Layout) -> dict[str, int]:
    return verify(layout, Files(), open_manifest(job.manifest, Files())).counts


def test_what_changed_is_done_again_and_nothing_else(tmp_path: Path, job: Job, make_photos: MakePhotos) -> None:
    plan, _ = run_job(job)
    first, layout, photos = rows_of(plan.layout), plan.layout, tmp_path / "photos"

    assert run_job(job, changed=True)[0].todo == 0
    os.utime(photos / "photo-000.jpg", (1, 1))  # another time, the same bytes
    shutil.copy(photos / "photo-001.jpg", photos / "copy.jpg")
    (photos / "copy.jpg").replace(photos / "photo-001.jpg")  # another file, the same bytes
    (photos / "photo-004.jpg").unlink()  # gone: what was made from it stays
    assert run_job(job, changed=True)[0].todo == 0

    (other, another) = make_photos(tmp_path / "other", 2, first=10)
    (photos / "photo-002.jpg").write_bytes(other.read_bytes())
    rows: list[dict[str, Any]] = [{"item_id": f"sku-{n}", "image_uri": f"photos/photo-00{n}.jpg"} for n in range(6)]
    shutil.copy(another, photos / "photo-009.jpg")
    rows[3]["image_uri"] = "photos/photo-009.jpg"  # another URI
    rows[5] |= {"x0": 20, "y0": 10, "x1": 100, "y1": 80}  # another box
    write_manifest(tmp_path / "manifest.csv", rows)
    assert run_job(job)[0].todo == 0, "changes are looked for only when asked"
    plan, record = run_job(job, changed=True)
    assert (plan.todo, record.ok + record.review) == (3, 3)
    second = rows_of(layout)
    assert {item for item in second if second[item]["finished_at"] != first[item]["finished_at"]} == {"sku-2", "sku-3", "sku-5"}
    assert all(second[item]["mask_uri"] != first[item]["mask_uri"] for item in ("sku-2", "sku-3", "sku-5"))
    assert all(Path(first[item]["mask_uri"]).exists() for item in first), "superseded objects stay until gc"
    assert check(job, layout) == {"orphan": 6}
    assert run_job(job, changed=True)[0].todo == 0


def test_gc_removes_exactly_what_nothing_needs(tmp_path: Path, job: Job, make_photos: MakePhotos) -> None:
    plan, _ = run_job(job)
    layout = plan.layout
    (tmp_path / "photos" / "photo-002.jpg").write_bytes(make_photos(tmp_path / "other", 1, first=10)[0].read_bytes())
    run_job(job, changed=True)
    (Path(layout.outputs("mask")) / "00").mkdir(exist_ok=True)
    (Path(layout.outputs("mask")) / "00" / ".x.png.0123456789abcdef.tmp").write_bytes(b"half")
    (Path(layout.index) / ".part-0.parquet.0123456789abcdef.tmp").write_bytes(b"half")
    kept = [".hidden.png", ".mine.tmp", ".x.0123456789abcdef.tmp.txt"]
    for name in kept:
        (Path(layout.outputs("mask")) / "00" / name).write_bytes(b"not ours")

    beside = [Path(layout.reviews) / "reviews-1.parquet", Path(layout.evaluation) / "part-1.parquet"]
    for path in beside:
        path.parent.mkdir()
        path.write_bytes(b"what people said, and how far it is from the truth")

    files = sorted(Path(layout.folder).rglob("*"))
    found = sweep(layout, "gc", Files(), delete=False, min_age_s=0)
    assert found.files["object"] == 2 and found.files["temporary"] == 2 and found.files["part"] >= 1
    assert all(found.bytes[kind] > 0 for kind in found.bytes)
    assert sorted(path for path in Path(layout.folder).rglob("*") if path.parent.name != "lease") == sorted(
        path for path in files if path.parent.name != "lease"
    ), "a dry run removes nothing"

    assert sum(sweep(layout, "gc", Files(), delete=True).files.values()) == 0, "all of it is younger than an hour"
    assert sweep(layout, "gc", Files(), delete=True, min_age_s=0) == found
    assert sum(sweep(layout, "gc", Files(), delete=False, min_age_s=0).files.values()) == 0
    assert check(job, layout) == {}
    assert len(list(Path(layout.folder).rglob("*.png"))) == 12 + 1
    assert all((Path(layout.outputs("mask")) / "00" / name).exists() for name in kept)
    assert all(path.exists() for path in beside)


def test_an_output_that_was_moved_keeps_its_objects(tmp_path: Path, job: Job) -> None:
    plan, _ = run_job(job)
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = Layout(str(tmp_path / "moved"), plan.layout.recipe_folder)
    assert sum(sweep(moved, "gc", Files(), delete=True, min_age_s=0).files.values()) == 0
    assert len(list(Path(moved.folder).rglob("*.png"))) == 12


def test_gc_waits_for_no_run_and_disturbs_none(job: Job) -> None:
    plan, _ = run_job(job)
    with Lease(plan.layout, "run-a", Files()), pytest.raises(LeaseHeld, match="run-a"):
        sweep(plan.layout, "gc", Files(), delete=True, min_age_s=0)
