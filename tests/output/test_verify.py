"""The checker must find each kind of damage, and nothing in a sound output."""

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
    """An output of six items, one of them failed, and a function that checks it."""
    make_photos(tmp_path / "photos", 5)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    job = load_job(
        manifest=str(tmp_path / "photos"),
        output=str(tmp_path / "out"),
        preset=fake_preset,
        overrides=[*SETTINGS, "compute.rows_per_part=2"],
    )
    plan, _ = run_job(job)
    files = Files()
    return plan.layout, lambda **options: verify(plan.layout, files, open_manifest(job.manifest, files), **options)


def objects(layout: Any) -> list[Path]:
    return sorted(Path(layout.folder).rglob("*.png"))


def found(verdict: VerifyReport) -> dict[str, int]:
    assert set(verdict.counts) <= set(KINDS)
    assert all(verdict.examples[kind] for kind in verdict.counts)
    return verdict.counts


def test_a_sound_output_and_every_kind_of_damage(made: Any) -> None:
    layout, check = made
    verdict = check()
    assert verdict.sound
    assert (verdict.rows, verdict.objects) == (6, 15)
    assert verdict.object_bytes == sum(path.stat().st_size for path in objects(layout))
    assert check(sample=0.0).objects == 0

    first, second, third = objects(layout)[:3]
    kept = {path: path.read_bytes() for path in (first, second, third)}

    first.unlink()
    assert found(check()) == {"absent": 1}
    assert found(check(sample=0.0)) == {"absent": 1}, "what isn't read is looked for all the same"
    first.write_bytes(kept[first])

    second.write_bytes(kept[second][: len(kept[second]) // 2])
    assert found(check()) == {"changed": 1, "undecodable": 1}
    sink = io.BytesIO()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(sink, "PNG")
    second.write_bytes(sink.getvalue())
    assert found(check()) == {"changed": 1, "undecodable": 1}
    second.write_bytes(kept[second])

    stray = third.with_name("stray.png")
    stray.write_bytes(kept[third])
    assert found(check(sample=0.0)) == {"orphan": 1}
    stray.unlink()

    parts = sorted(Path(layout.index).glob("*.parquet"))
    rows = pq.read_table(parts[0])
    again = write_part(layout, rows.slice(0, 1), Files())
    assert found(check()) == {"twice": 1}
    Path(again).unlink()

    parts[0].unlink()
    lost = check(sample=0.0)
    assert lost.counts["missing"] == rows.num_rows
    assert set(lost.examples["missing"]) == set(rows["item_id"].to_pylist())
    write_part(layout, rows, Files())

    unknown = rows.slice(0, 1).set_column(0, rows.schema.field(0), pa.array(["nobody"]))
    extra = write_part(layout, unknown, Files())
    assert found(check()) == {"unknown": 1}
    Path(extra).unlink()

    status = rows.schema.get_field_index("status")
    wrong = rows.set_column(status, rows.schema.field(status), pa.array(["failed"] * rows.num_rows))
    write_part(layout, wrong, Files())
    assert "incoherent" in found(check())
    write_part(layout, rows, Files())
    assert check().sound


def test_failed_items_are_done_again_by_code(made: Any, tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    layout, check = made
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
    verdict = check()
    assert verdict.sound, verdict
    assert verdict.rows == 6
    assert len(list(Path(layout.superseded).glob("*.parquet"))) == 1
