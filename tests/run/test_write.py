"""Publishing: what is there already stays, so a repeated task never contradicts a committed row."""

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
from pipeline.schema import SIGNALS

SHAPE = (6, 9)


@pytest.fixture
def context(stage_context: Any) -> StageContext:
    return stage_context(["compute.fetch_threads=2"])  # type: ignore[no-any-return]


def batch(seed: int, *ids: str, image_sha256: str = "0" * 64) -> pa.Table:
    """Items as they come from the model, with random masks."""
    rng = np.random.default_rng(seed)
    masks = [rng.integers(0, 256, SHAPE, np.uint8) for _ in ids]
    images = [np.full((*SHAPE, 3), 100, np.uint8) for _ in ids]
    count = len(ids)
    facts: dict[str, Any] = {
        "item_id": list(ids),
        "image_uri": [f"/photos/{item_id}.jpg" for item_id in ids],
        "box": pa.nulls(count, pa.list_(pa.float64())),
        "error_code": pa.nulls(count, pa.string()),
        "error_detail": pa.nulls(count, pa.string()),
        "pixels": pack(images),
        "height": pa.array([SHAPE[0]] * count, pa.int32()),
        "width": pa.array([SHAPE[1]] * count, pa.int32()),
        "image_sha256": [image_sha256] * count,
        "image_version": ["v1"] * count,
        "image_bytes": pa.array([10] * count, pa.int64()),
        "fetch_s": pa.array([0.1] * count, pa.float32()),
        "decode_s": pa.array([0.1] * count, pa.float32()),
        "mask": pack(masks),
        "quality": pa.array([0.9] * count, pa.float32()),
        "quality_calibrated": [False] * count,
        "reasons": pa.array([[]] * count, pa.list_(pa.string())),
        "signals": pa.nulls(count, SIGNALS),
        "segment_s": pa.array([0.1] * count, pa.float32()),
    }
    return pa.table(facts)


def objects(row: dict[str, Any]) -> Iterator[tuple[Path, bytes]]:
    for output in ("mask", "cutout"):
        path = Path(row[f"{output}_uri"])
        data = path.read_bytes()
        assert len(data) == row[f"{output}_bytes"]
        assert hashlib.sha256(data).hexdigest() == row[f"{output}_sha256"]
        yield path, data


def test_the_first_writer_wins_and_every_row_tells_of_what_is_stored(context: StageContext) -> None:
    (first,) = write_batch(batch(1, "a"), context=context).to_pylist()
    stored = list(objects(first))
    (second,) = write_batch(batch(2, "a"), context=context).to_pylist()
    assert list(objects(second)) == stored, "another result for the same input neither replaces nor contradicts the first"
    assert list(objects(first)) == stored


def test_a_changed_image_makes_objects_beside_the_old_ones(context: StageContext) -> None:
    (old,) = write_batch(batch(1, "a"), context=context).to_pylist()
    (new,) = write_batch(batch(2, "a", image_sha256="1" * 64), context=context).to_pylist()
    assert {path for path, _ in objects(old)}.isdisjoint(path for path, _ in objects(new))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n cut off", None], ids=["empty", "cut off", "of another size"])
def test_a_damaged_object_in_the_way_is_replaced(context: StageContext, damage: bytes | None) -> None:
    (row,) = write_batch(batch(1, "a"), context=context).to_pylist()
    if damage is None:
        from pipeline.imaging.encode import encode_mask

        damage = encode_mask(np.zeros((3, 3), np.uint8))
    for path, _ in list(objects(row)):
        path.write_bytes(damage)
    (again,) = write_batch(batch(2, "a"), context=context).to_pylist()
    assert all(data != damage for _, data in objects(again))


def test_what_cannot_be_published_fails_its_item_alone(context: StageContext, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=context).to_pylist()
    (mask, _), _ = objects(row)
    mask.unlink()
    mask.mkdir()  # in the way
    (mask / "x").touch()
    failed, fine = write_batch(batch(1, "a", "b"), context=context).to_pylist()
    assert (failed["status"], failed["error_code"], failed["mask_uri"], failed["cutout_uri"]) == ("failed", "write", None, None)
    assert fine["status"] == "ok" and len(list(objects(fine))) == 2


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
        path = Path(one["uri"])
        assert path.parent.parent == root / "fake-0" / "renditions" / one["name"]
        assert path.suffix == f".{FILES[one['name']]}"
        data = found[one["name"]] = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one["bytes"], one["sha256"])
        size = json.loads(data)["size"] if path.suffix == ".json" else list(Image.open(io.BytesIO(data)).size[::-1])
        assert size == [one["height"], one["width"]]
    return found


def test_renditions_are_published_and_told_of(with_renditions: StageContext, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    assert row["status"] == "ok" and row["mask_uri"] and row["cutout_uri"]
    assert list(check_renditions(row, tmp_path)) == list(FILES)
    assert {one["name"]: (one["height"], one["width"]) for one in row["renditions"]}["dataset-coco"] == SHAPE


def test_without_renditions_there_is_nothing_to_tell(context: StageContext) -> None:
    (row,) = write_batch(batch(1, "a"), context=context).to_pylist()
    assert row["renditions"] is None


def test_a_repeated_task_finds_its_renditions(with_renditions: StageContext, tmp_path: Path) -> None:
    (first,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    stored = check_renditions(first, tmp_path)
    (second,) = write_batch(batch(2, "a"), context=with_renditions).to_pylist()
    assert check_renditions(second, tmp_path) == stored, "another result for the same input replaces nothing"
    assert second["renditions"] == first["renditions"]


@pytest.mark.parametrize("damage", ["empty", "cut off", "another format"])
def test_damaged_renditions_are_replaced(with_renditions: StageContext, tmp_path: Path, damage: str) -> None:
    (first,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    stored = check_renditions(first, tmp_path)
    for one in first["renditions"]:
        data = stored[one["name"]]
        other = stored["web"] if one["name"] != "web" else stored["own"]
        Path(one["uri"]).write_bytes({"empty": b"", "cut off": data[: len(data) // 2], "another format": other}[damage])
    (again,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    assert check_renditions(again, tmp_path) == stored


def test_a_rendition_that_cannot_be_written_fails_its_item_alone(with_renditions: StageContext, tmp_path: Path) -> None:
    (row,) = write_batch(batch(1, "a"), context=with_renditions).to_pylist()
    path = Path(row["renditions"][2]["uri"])
    path.unlink()
    path.mkdir()  # in the way
    (path / "x").touch()
    failed, fine = write_batch(batch(1, "a", "b"), context=with_renditions).to_pylist()
    assert (failed["status"], failed["error_code"]) == ("failed", "write")
    assert failed["mask_uri"] is failed["cutout_uri"] is failed["renditions"] is None
    assert fine["status"] == "ok" and len(check_renditions(fine, tmp_path)) == len(FILES)


def test_an_empty_mask_says_what_was_not_made(with_renditions: StageContext) -> None:
    table = batch(1, "a")
    at = table.schema.get_field_index("mask")
    table = table.set_column(at, table.schema.field(at), pack([np.zeros(SHAPE, np.uint8)]))
    (row,) = write_batch(table, context=with_renditions).to_pylist()
    assert row["status"] == "ok" and row["mask_uri"]
    made = {one["name"]: one["uri"] is not None for one in row["renditions"]}
    assert made == {"dataset-coco": True, "own": False, "thumb-8": False, "thumb-16": False, "web": False}
    assert all("no object" in one["note"] for one in row["renditions"] if one["uri"] is None)
