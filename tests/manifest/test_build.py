"""Manifests of images with true masks: what is paired with what."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.manifest.build import from_dis5k, from_masks, write_manifest
from pipeline.manifest.manifest import open_manifest, scan
from pipeline.storage.files import Files


def touch(folder: Path, *names: str) -> str:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return str(folder)


def test_masks_are_found_by_the_images_names(tmp_path: Path) -> None:
    images = touch(tmp_path / "photos", "a.jpg", "b/a.jpg", "c.webp", "notes.txt")
    masks = touch(tmp_path / "masks", "a.png", "b/a.png", "d.png")
    table = from_masks(images, masks, Files())
    truths = dict(zip(table["item_id"].to_pylist(), table["truth_uri"].to_pylist(), strict=True))
    assert truths == {"a.jpg": f"{masks}/a.png", "b/a.jpg": f"{masks}/b/a.png", "c.webp": None}


def test_masks_that_could_be_anybodys_are_refused(tmp_path: Path) -> None:
    images, masks = touch(tmp_path / "photos", "a.jpg"), touch(tmp_path / "masks", "a.png", "a.jpg")
    with pytest.raises(ConfigError, match="are both the mask of 'a'; keep one"):
        from_masks(images, masks, Files())
    with pytest.raises(ConfigError, match="no mask below .* is called like an image"):
        from_masks(images, touch(tmp_path / "others", "z.png"), Files())


def test_dis5k_as_it_is_published(tmp_path: Path) -> None:
    name = "4#Architecture#12#TV Tower#31401_o"
    for part in ("DIS-VD", "DIS-TE1"):
        touch(tmp_path / "DIS5K" / part, f"im/{name}.jpg", "im/plain.jpg", f"gt/{name}.png", "gt/plain.png")
    whole = from_dis5k(str(tmp_path / "DIS5K"), Files()).to_pylist()
    assert {row["item_id"] for row in whole} == {
        f"{part}/{stem}.jpg" for part in ("DIS-VD", "DIS-TE1") for stem in (name, "plain")
    }
    (one,) = (row for row in whole if row["item_id"] == f"DIS-VD/{name}.jpg")
    assert one["tags"] == "DIS-VD;Architecture"
    assert one["truth_uri"] == str(tmp_path / "DIS5K" / "DIS-VD" / "gt" / f"{name}.png")
    part = from_dis5k(str(tmp_path / "DIS5K" / "DIS-VD"), Files()).to_pylist()
    assert [row["item_id"] for row in part] == [row["item_id"] for row in whole if row["item_id"].startswith("DIS-VD/")]
    with pytest.raises(ConfigError, match="isn't laid out as DIS5K"):
        from_dis5k(touch(tmp_path / "other", "im/a.jpg"), Files())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    table = pa.table(
        {
            "item_id": ["a", "b"],
            "image_uri": [str(tmp_path / "a.jpg"), "/elsewhere/b.jpg"],
            "truth_uri": [str(tmp_path / "m" / "a.png"), None],
            "box": [[1, 2, 3, 4], None],
            "tags": [["x", "y"], []],
        }
    )
    target = str(tmp_path / f"manifest.{suffix}")
    write_manifest(table, target, Files())
    manifest = open_manifest(target, Files())
    found = scan(manifest, Files())
    assert (found.rows, found.with_box) == (2, 1)
    assert set(manifest.carried.names) == {"truth_uri", "tags"}
    if suffix == "csv":
        rows = list(csv.DictReader((tmp_path / "manifest.csv").open()))
        assert rows[0] | {"tags": json.loads(rows[0]["tags"])} == {
            "item_id": "a",
            "image_uri": "a.jpg",
            "truth_uri": "m/a.png",
            "box": "[1, 2, 3, 4]",
            "tags": ["x", "y"],
        }
