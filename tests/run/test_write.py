"""Write objects under stable names: a replacement is noted before it happens, and rows describe what was written."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.config.recipe import Recipe
from pipeline.run.context import StageContext
from pipeline.run.stages.columns import pack
from pipeline.run.stages.write import write_batch
from pipeline.schema import INDEX, SIGNALS

SHAPE = (6, 9)


@pytest.fixture
def context(stage_context: Any) -> StageContext:
    return stage_context(["compute.fetch_threads=2"])  # type: ignore[no-any-return]


def batch(seed: int, *ids: str) -> pa.Table:
    """Items as they come from the model, with random masks."""
    rng = np.random.default_rng(seed)
    masks = [rng.integers(0, 256, SHAPE, np.uint8) for _ in ids]
    images = [np.full((*SHAPE, 3), 100, np.uint8) for _ in ids]
    count = len(ids)
    facts: dict[str, Any] = {
        "item_id": list(ids),
        "output_name": list(ids),
        "image_uri": [f"/photos/{item_id}.jpg" for item_id in ids],
        "box": pa.nulls(count, pa.list_(pa.float64())),
        "error_code": pa.nulls(count, pa.string()),
        "error_detail": pa.nulls(count, pa.string()),
        "pixels": pack(images),
        "height": pa.array([SHAPE[0]] * count, pa.int32()),
        "width": pa.array([SHAPE[1]] * count, pa.int32()),
        "image_sha256": ["0" * 64] * count,
        "image_version": ["v1"] * count,
        "image_bytes": pa.array([10] * count, pa.int64()),
        "fetch_s": pa.array([0.1] * count, pa.float32()),
        "decode_s": pa.array([0.1] * count, pa.float32()),
        "mask": pack(masks),
        "quality": pa.array([0.9] * count, pa.float32()),
        "quality_calibrated": [False] * count,
        "reasons": pa.array([[]] * count, pa.list_(pa.string())),
        "signals": pa.nulls(count, SIGNALS),
        "prompt": pa.nulls(count, pa.list_(pa.string())),
        "detected_box": pa.nulls(count, pa.list_(pa.float64())),
        "detected_label": pa.nulls(count, pa.string()),
        "detector_score": pa.nulls(count, pa.float32()),
        "models": pa.nulls(count, INDEX.field("models").type),
        "agreement": pa.nulls(count, pa.float32()),
        "segment_s": pa.array([0.1] * count, pa.float32()),
    }
    return pa.table(facts)


def objects(row: dict[str, Any], root: Path) -> Iterator[tuple[Path, bytes]]:
    for output in ("mask", "cutout"):
        path = root / row[f"{output}_path"]
        data = path.read_bytes()
        assert len(data) == row[f"{output}_bytes"]
        assert hashlib.sha256(data).hexdigest() == row[f"{output}_sha256"]
        yield path, data


def notes(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "_matteline" / "overwrites").glob("*.json"))]


def test_the_same_result_again_writes_nothing(context: StageContext, tmp_path: Path) -> None:
    (first,) = write_batch(batch(1, "a"), context=context).to_pylist()
    times = [path.stat().st_mtime_ns for path, _ in objects(first, tmp_path)]
    (second,) = write_batch(batch(1, "a"), context=context).to_pylist()
    assert [path.stat().st_mtime_ns for path, _ in objects(second, tmp_path)] == times
    assert not notes(tmp_path)


def test_another_result_is_noted_before_it_replaces_the_first(context: StageContext, tmp_path: Path) -> None:
    """A repeated task on a GPU, or one after a crash with another photo."""
    write_batch(batch(1, "a"), context=context)
    (row,) = write_batch(batch(2, "a"), context=context).to_pylist()
    assert len(list(objects(row, tmp_path))) == 2
    assert {tuple(note["item_ids"]) for note in notes(tmp_path)} == {("a",)}
    assert not any(note["complete"] for note in notes(tmp_path))


def test_a_run_that_replaces_notes_a_task_once(context: StageContext, tmp_path: Path) -> None:
    old, _ = write_batch(batch(1, "a", "b"), context=context).to_pylist()
    new, _ = write_batch(batch(2, "a", "b"), context=replace(context, replaces=True)).to_pylist()
    assert [(note["run_id"], note["item_ids"], note["complete"]) for note in notes(tmp_path)] == [("run", ["a", "b"], True)]
    assert new["mask_path"] == old["mask_path"] and new["mask_sha256"] != old["mask_sha256"]
    list(objects(new, tmp_path))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n cut off", None], ids=["empty", "cut off", "of another size"])
def test_a_damaged_object_in_the_way_is_replaced(context: StageContext, damage: bytes | None, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=context).to_pylist()
    if damage is None:
        from pipeline.imaging.png import encode_mask

        damage = encode_mask(np.zeros((3, 3), np.uint8))
    for path, _ in list(objects(row, tmp_path)):
        path.write_bytes(damage)
    (again,) = write_batch(batch(2, "a"), context=context).to_pylist()
    assert all(data != damage for _, data in objects(again, tmp_path))


def test_what_cannot_be_published_fails_its_item_alone(context: StageContext, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=context).to_pylist()
    (mask, _), _ = objects(row, tmp_path)
    mask.unlink()
    mask.mkdir()  # in the way
    (mask / "x").touch()
    failed, fine = write_batch(batch(1, "a", "b"), context=context).to_pylist()
    assert (failed["status"], failed["error_code"], failed["mask_path"], failed["cutout_path"]) == (
        "failed",
        "write",
        None,
        None,
    )
    assert fine["status"] == "ok" and len(list(objects(fine, tmp_path))) == 2


RENDITIONS = [
    {"name": "thumb", "size_px": [8, 16], "fill": 0.8, "background": "#ffffff", "format": "jpeg"},
    {"name": "web", "format": "webp"},
    {"name": "own", "trim": 0.1},
    "dataset-coco",
]
FILES = {"dataset-coco": "json", "own": "png", "thumb-8": "jpg", "thumb-16": "jpg", "web": "webp"}


@pytest.fixture
def with_renditions(context: StageContext) -> StageContext:
    facts = context.recipe.model_dump(mode="json")
    return replace(context, job=context.job.with_recipe(Recipe.model_validate(facts | {"renditions": RENDITIONS})))


def check_renditions(row: dict[str, Any], root: Path) -> dict[str, bytes]:
    """Every entry tells of what is stored; by name."""
    found = {}
    for one in row["renditions"]:
        path = root / one["path"]
        assert path.parent == root / one["name"]
        assert path.suffix == f".{FILES[one['name']]}"
        data = found[one["name"]] = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one["bytes"], one["sha256"])
        size = json.loads(data)["size"] if path.suffix == ".json" else list(Image.open(io.BytesIO(data)).size[::-1])
        assert size == [one["height"], one["width"]]
    return found


def test_renditions_are_published_and_told_of(with_renditions: StageContext, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    assert row["status"] == "ok" and row["mask_path"] and row["cutout_path"]
    assert list(check_renditions(row, tmp_path)) == list(FILES)
    assert {one["name"]: (one["height"], one["width"]) for one in row["renditions"]}["dataset-coco"] == SHAPE


def test_without_renditions_there_is_nothing_to_tell(context: StageContext) -> None:
    (row,) = write_batch(batch(1, "a"), context=context).to_pylist()
    assert row["renditions"] is None


def test_a_repeated_task_finds_its_renditions(with_renditions: StageContext, tmp_path: Path) -> None:
    (first,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    stored = check_renditions(first, tmp_path)
    (second,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    assert check_renditions(second, tmp_path) == stored
    assert second["renditions"] == first["renditions"]


@pytest.mark.parametrize("damage", ["empty", "cut off", "another format"])
def test_damaged_renditions_are_replaced(with_renditions: StageContext, tmp_path: Path, damage: str) -> None:
    (first,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    stored = check_renditions(first, tmp_path)
    for one in first["renditions"]:
        data = stored[one["name"]]
        other = stored["web"] if one["name"] != "web" else stored["own"]
        (tmp_path / one["path"]).write_bytes({"empty": b"", "cut off": data[: len(data) // 2], "another format": other}[damage])
    (again,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    assert check_renditions(again, tmp_path) == stored


def test_a_rendition_that_cannot_be_written_fails_its_item_alone(with_renditions: StageContext, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    path = tmp_path / row["renditions"][2]["path"]
    path.unlink()
    path.mkdir()  # in the way
    (path / "x").touch()
    failed, fine = write_batch(batch(1, "a", "b"), context=with_renditions).to_pylist()
    assert (failed["status"], failed["error_code"]) == ("failed", "write")
    assert failed["mask_path"] is failed["cutout_path"] is failed["renditions"] is None
    assert fine["status"] == "ok" and len(check_renditions(fine, tmp_path)) == len(FILES)


def test_an_empty_mask_says_what_was_not_made(with_renditions: StageContext) -> None:
    table = batch(1, "a")
    at = table.schema.get_field_index("mask")
    table = table.set_column(at, table.schema.field(at), pack([np.zeros(SHAPE, np.uint8)]))
    (row,) = write_batch(table, context=with_renditions).to_pylist()
    assert row["status"] == "ok" and row["mask_path"]
    made = {one["name"]: one["path"] is not None for one in row["renditions"]}
    assert made == {"dataset-coco": True, "own": False, "thumb-8": False, "thumb-16": False, "web": False}
    assert all("no object" in one["note"] for one in row["renditions"] if one["path"] is None)
