"""Publishing: what is there already stays, so a repeated task never contradicts a committed row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import load_preset
from pipeline.schema import SIGNALS
from pipeline.stages.finish import Finish, finish_batch
from pipeline.stages.rows import pack
from pipeline.storage.files import Files
from pipeline.storage.layout import Layout

SHAPE = (6, 9)


@pytest.fixture
def finish(tmp_path: Path, fake_preset: str) -> Finish:
    recipe = load_preset(fake_preset).recipe
    return Finish(recipe, Layout(str(tmp_path), "fake-0"), "run", Files(), pa.schema([]), 2)


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
        "note": ["something was left out"] * count,
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


def test_the_first_writer_wins_and_every_row_tells_of_what_is_stored(finish: Finish) -> None:
    (first,) = finish_batch(batch(1, "a"), finish=finish).to_pylist()
    stored = list(objects(first))
    (second,) = finish_batch(batch(2, "a"), finish=finish).to_pylist()
    assert list(objects(second)) == stored, "another result for the same input neither replaces nor contradicts the first"
    assert list(objects(first)) == stored


def test_a_note_reaches_the_row_unless_the_item_fails(finish: Finish) -> None:
    rows = batch(1, "a", "b")
    failed = pa.array([None, "segment"], pa.string())
    first, second = finish_batch(
        rows.set_column(rows.schema.get_field_index("error_code"), "error_code", failed), finish=finish
    ).to_pylist()
    assert first["note"] == "something was left out" and second["note"] is None


def test_a_changed_image_makes_objects_beside_the_old_ones(finish: Finish) -> None:
    (old,) = finish_batch(batch(1, "a"), finish=finish).to_pylist()
    (new,) = finish_batch(batch(2, "a", image_sha256="1" * 64), finish=finish).to_pylist()
    assert {path for path, _ in objects(old)}.isdisjoint(path for path, _ in objects(new))


@pytest.mark.parametrize("damage", [b"", b"\x89PNG\r\n\x1a\n cut off", None], ids=["empty", "cut off", "of another size"])
def test_a_damaged_object_in_the_way_is_replaced(finish: Finish, damage: bytes | None) -> None:
    (row,) = finish_batch(batch(1, "a"), finish=finish).to_pylist()
    if damage is None:
        from pipeline.imaging.encode import encode_mask

        damage = encode_mask(np.zeros((3, 3), np.uint8))
    for path, _ in list(objects(row)):
        path.write_bytes(damage)
    (again,) = finish_batch(batch(2, "a"), finish=finish).to_pylist()
    assert all(data != damage for _, data in objects(again))


def test_what_cannot_be_published_fails_its_item_alone(finish: Finish, tmp_path: Path) -> None:
    (row,) = finish_batch(batch(1, "a"), finish=finish).to_pylist()
    (mask, _), _ = objects(row)
    mask.unlink()
    mask.mkdir()  # in the way
    (mask / "x").touch()
    failed, fine = finish_batch(batch(1, "a", "b"), finish=finish).to_pylist()
    assert (failed["status"], failed["error_code"], failed["mask_uri"], failed["cutout_uri"]) == ("failed", "write", None, None)
    assert fine["status"] == "ok" and len(list(objects(fine))) == 2
