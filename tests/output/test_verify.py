"""Verification finds each kind of damage, and nothing in a sound output. A repair lets the next run make it again."""

from __future__ import annotations

import hashlib
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
from pipeline.errors import LeaseHeld
from pipeline.imaging.png import encode_mask
from pipeline.manifest.manifest import open_manifest
from pipeline.output.findings import KINDS, VerifyReport
from pipeline.output.gc import collect_garbage
from pipeline.output.index import done_ids, read_index, write_part
from pipeline.output.layout import part_name
from pipeline.output.lease import Lease
from pipeline.output.output import Output
from pipeline.output.overwrites import note_overwrites
from pipeline.output.settings import write_settings
from pipeline.output.verify import repair, verify
from pipeline.run.driver import run_job
from pipeline.schema import INDEX, SEGMENTS
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]
SETTINGS = ["recipe.outputs=[mask, cutout, trimap]", "budget.max_failed_share=1"]


@pytest.fixture
def made(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> Any:
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
    assert run_job(job.with_run(retry=("fetch",)))[0].todo == 0
    (photo,) = make_photos(tmp_path / "other", 1)
    (tmp_path / "photos" / "broken.jpg").write_bytes(photo.read_bytes())
    plan, record = run_job(job.with_run(retry=("decode",)))
    assert (plan.todo, record.ok + record.review) == (1, 1)
    report = check()
    assert report.sound, report
    assert report.rows == 6
    assert len(list(Path(output.layout.superseded).glob("*.parquet"))) == 1


MASK = encode_mask(np.zeros((3, 4), np.uint8))


def row(item_id: str, **columns: Any) -> dict[str, Any]:
    """The index row of an item with the mask ``MASK``."""
    facts = {"mask_path": f"masks/{item_id}.png", "mask_bytes": len(MASK), "mask_sha256": hashlib.sha256(MASK).hexdigest()}
    item = {"item_id": item_id, "output_name": item_id, "status": "ok", "quality": 1.0, "height": 3, "width": 4}
    return item | facts | {"recipe": "0" * 64} | columns


@pytest.fixture
def masks(where: Any) -> Output:
    """A sound output of the items a, b and c, each with a mask and a part of its own."""
    output = Output.at(f"{where.root}/out", where.files)
    for item_id in ("a", "b", "c"):
        output.write(output.layout.uri(f"masks/{item_id}.png"), MASK)
        write_part(output, pa.Table.from_pylist([row(item_id)], INDEX))
    assert verify(output).sound
    return output


def ids(output: Output) -> list[str]:
    return sorted(item_id for part in read_index(output, ["item_id"]) for item_id in part["item_id"].to_pylist())


def test_a_repair_removes_the_rows_of_damaged_items(masks: Output) -> None:
    flipped = bytearray(MASK)
    flipped[-20] ^= 1
    masks.write(masks.layout.uri("masks/b.png"), bytes(flipped))
    masks.files.delete(masks.layout.uri("masks/c.png"))
    report = repair(masks, "repair")
    assert (counts(report), report.repaired) == ({"changed": 1, "undecodable": 1, "absent": 1}, 2)
    assert ids(masks) == ["a"]
    assert len(done_ids(masks, "0" * 64)[0]) == 1, "the next run makes the others again"
    assert counts(verify(masks)) == {"orphan": 1}, "the damaged object is overwritten by the next run"
    assert repair(masks, "repair").repaired == 0


def test_a_repair_removes_unreadable_parts(masks: Output) -> None:
    uri = masks.layout.part(["b"])
    masks.write(uri, masks.files.read(uri)[:-20])
    report = repair(masks, "repair")
    assert (counts(report), report.repaired) == ({"orphan": 1, "unreadable": 1}, 0)
    assert report.examples["unreadable"] == [uri]
    assert ids(masks) == ["a", "c"]


def test_rows_of_another_version_are_read_with_the_others(masks: Output) -> None:
    masks.write(masks.layout.uri("masks/d.png"), MASK)
    write_part(masks, pa.Table.from_pylist([row("d")], INDEX).drop_columns(["trimap_path", "cutout_sha256"]))
    assert verify(masks).sound


def test_a_repair_of_a_sound_output_changes_nothing(masks: Output) -> None:
    before = [info.uri for info in masks.parts()]
    note_overwrites(masks, "run", ["a"], complete=True)
    report = repair(masks, "repair")
    assert report.sound and report.repaired == 0
    assert [info.uri for info in masks.parts()] == before
    assert not list(masks.files.list(masks.layout.overwrites)), "every object was read, so the notes are done"


@pytest.mark.parametrize(("name", "listed"), [("shelf/d", "Shelf/d"), ("caf\u00e9/Stra\u00dfe", "cafe\u0301/Strasse")])
def test_files_that_a_disk_lists_in_another_spelling_stay(
    masks: Output, fake_settings: dict[str, Any], name: str, listed: str
) -> None:
    """A disk that ignores case or Unicode forms keeps the spelling of the folder that was made first."""
    write_settings(masks, fake_settings)
    write_part(masks, pa.Table.from_pylist([row(name)], INDEX))
    masks.write(masks.layout.uri(f"masks/{listed}.png"), MASK)
    masks.write(masks.layout.uri(f"masks/{listed}-2.png"), MASK)
    report = verify(masks, sample=0)
    assert counts(report) == {"orphan": 1} and report.examples["orphan"][0].endswith("-2.png")
    assert collect_garbage(masks, "gc", delete=True, min_age_s=-60).files["object"] == 1
    assert masks.files.exists(masks.layout.uri(f"masks/{listed}.png"))


def write_segments(output: Output, item_id: str, owner: str, run_id: str) -> str:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"item_id": owner, "number": 0, "run_id": run_id}], SEGMENTS), sink)
    uri = f"{output.layout.segments}/{part_name([item_id])}"
    output.write(uri, sink.getvalue())
    return uri


def test_the_segments_of_videos_are_verified_and_collected(masks: Output, fake_settings: dict[str, Any]) -> None:
    write_settings(masks, fake_settings)
    video = {
        "mask_path": None,
        "mask_bytes": None,
        "mask_sha256": None,
        "run_id": "r1",
        "video_facts": {"frames": 2, "files": []},
    }
    file = {"name": "mask", "frames": 2, "bytes": len(MASK), "sha256": row("")["mask_sha256"], "height": 3, "width": 4}
    for item_id in ("v", "w", "x", "y"):
        facts = {"frames": 2, "files": [file | {"path": f"masks/{item_id}.mp4"}]}
        masks.write(masks.layout.uri(f"masks/{item_id}.mp4"), MASK)
        write_part(masks, pa.Table.from_pylist([row(item_id, **video | {"video_facts": facts})], INDEX))
    write_segments(masks, "v", "v", "r1")
    assert verify(masks).sound, "x and y have no segments"
    write_segments(masks, "w", "w", "r0")
    masks.write(write_segments(masks, "x", "x", "r1"), b"PAR1")
    orphan = write_segments(masks, "gone", "gone", "r1")
    report = verify(masks)
    assert counts(report) == {"segments": 2, "orphan": 1} and report.examples["orphan"] == [orphan]
    assert {one.partition(":")[0] for one in report.examples["segments"]} == {"w", "x"}
    assert collect_garbage(masks, "gc", delete=True, min_age_s=-60).files["object"] == 1
    assert not masks.files.exists(orphan) and counts(verify(masks)) == {"segments": 2}
    assert repair(masks, "repair").repaired == 2
    assert ids(masks) == ["a", "b", "c", "v", "y"]


def test_a_repair_is_refused_during_a_run(local: Any) -> None:
    output = Output.at(f"{local.root}/out", local.files)
    with Lease(output, "run-a"), pytest.raises(LeaseHeld, match="run-a"):
        repair(output, "repair")


@pytest.mark.parametrize("path", ["../x.png", "masks/../../x.png", "/x.png"])
@pytest.mark.parametrize("column", ["mask_path", "renditions"])
def test_a_path_that_leads_out_of_the_output_is_damage(where: Any, masks: Output, path: str, column: str) -> None:
    for place in ("x.png", "out/x.png"):
        where.put(place, MASK)
    entry = {"name": "x", "path": path, "bytes": len(MASK), "sha256": hashlib.sha256(MASK).hexdigest(), "height": 3, "width": 4}
    hostile = {"mask_path": path} if column == "mask_path" else {"renditions": [entry]}
    write_part(masks, pa.Table.from_pylist([row("d", **hostile)], INDEX))
    masks.write(masks.layout.uri("masks/d.png"), MASK)
    orphan = {"orphan": 1} if column == "mask_path" else {}
    report = verify(masks)
    assert counts(report) == {"absent": 1} | orphan
    assert "is not a path inside the output" in report.examples["absent"][0]
    assert counts(verify(masks, sample=0.0)) == {"absent": 1} | orphan
    assert repair(masks, "repair").repaired == 1
