"""Verification finds each kind of damage, and nothing in a sound output."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.job import load_job
from pipeline.manifest.manifest import open_manifest
from pipeline.output.index import write_part
from pipeline.output.verify import KINDS, VerifyReport, verify
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]
SETTINGS = ["recipe.outputs=[mask, cutout, trimap]", "budget.max_failed_share=1"]


@pytest.fixture
def made(ray_session: None, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> Any:
    """An output of six items, one of them failed, and a function that verifies it."""
    make_photos(tmp_path / "photos", 5)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"not an image")
    job = load_job(
        manifest=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=[*SETTINGS, "compute.rows_per_part=2"],
    )
    plan, _ = run_job(job)
    return plan.output, lambda **options: verify(plan.output, open_manifest(job.manifest, Files()), **options)


def objects(output: Any) -> list[Path]:
    return sorted(Path(output.folder).rglob("*.png"))


def counts(report: VerifyReport) -> dict[str, int]:
    assert set(report.counts) <= set(KINDS)
    assert all(report.examples[kind] for kind in report.counts)
    return report.counts


def test_a_sound_output_and_every_kind_of_damage(made: Any) -> None:
    output, check = made
    report = check()
    assert report.sound
    assert (report.rows, report.objects) == (6, 15)
    assert report.object_bytes == sum(path.stat().st_size for path in objects(output))
    assert check(sample=0.0).objects == 0

    first, second, third = objects(output)[:3]
    kept = {path: path.read_bytes() for path in (first, second, third)}

    first.unlink()
    assert counts(check()) == {"absent": 1}
    assert counts(check(sample=0.0)) == {"absent": 1}, "unread objects are looked up in the listing"
    first.write_bytes(kept[first])

    second.write_bytes(kept[second][: len(kept[second]) // 2])
    assert counts(check()) == {"changed": 1, "undecodable": 1}
    sink = io.BytesIO()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(sink, "PNG")
    second.write_bytes(sink.getvalue())
    assert counts(check()) == {"changed": 1, "undecodable": 1}
    second.write_bytes(kept[second])

    orphan = third.with_name("orphan.png")
    orphan.write_bytes(kept[third])
    assert counts(check(sample=0.0)) == {"orphan": 1}
    orphan.unlink()

    parts = sorted(Path(output.layout.index).glob("*.parquet"))
    rows = pq.read_table(parts[0])
    again = write_part(output, rows.slice(0, 1))
    assert counts(check()) == {"twice": 1}
    Path(again).unlink()

    parts[0].unlink()
    lost = check(sample=0.0)
    assert lost.counts["missing"] == rows.num_rows
    assert set(lost.examples["missing"]) == set(rows["item_id"].to_pylist())
    write_part(output, rows)

    unknown = rows.slice(0, 1).set_column(0, rows.schema.field(0), pa.array(["nobody"]))
    extra = write_part(output, unknown)
    assert counts(check()) == {"unknown": 1}
    Path(extra).unlink()

    status = rows.schema.get_field_index("status")
    wrong = rows.set_column(status, rows.schema.field(status), pa.array(["failed"] * rows.num_rows))
    write_part(output, wrong)
    assert "incoherent" in counts(check())
    write_part(output, rows)
    assert check().sound


def test_failed_items_are_retried_by_code(made: Any, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    output, check = made
    job = load_job(
        manifest=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=SETTINGS,
    )
    assert run_job(job, retry=["fetch"])[0].todo == 0
    (photo,) = make_photos(tmp_path / "other", 1)
    (tmp_path / "photos" / "broken.jpg").write_bytes(photo.read_bytes())
    plan, record = run_job(job, retry=["decode"])
    assert (plan.todo, record.ok + record.review) == (1, 1)
    report = check()
    assert report.sound, report
    assert report.rows == 6
    assert len(list(Path(output.layout.superseded).glob("*.parquet"))) == 1
