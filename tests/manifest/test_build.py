"""Manifests built from folders of images and masks, and written in every format."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

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


def test_masks_are_matched_by_path(tmp_path: Path) -> None:
    images = touch(tmp_path / "photos", "a.jpg", "b/a.jpg", "c.webp", "notes.txt")
    masks = touch(tmp_path / "masks", "a.png", "b/a.png", "d.png")
    table = from_masks(images, masks, Files())
    truths = dict(zip(table["item_id"].to_pylist(), table["truth_uri"].to_pylist(), strict=True))
    assert truths == {"a.jpg": f"{masks}/a.png", "b/a.jpg": f"{masks}/b/a.png", "c.webp": None}


@pytest.mark.parametrize("masks", ["photos/masks", "photos/b"])
def test_masks_among_the_photos_are_no_items(tmp_path: Path, masks: str) -> None:
    images = touch(tmp_path / "photos", "a.jpg", "masks/a.png", "b/a.png", "b.jpg")
    touch(tmp_path / masks, "a.png")
    table = from_masks(images, str(tmp_path / masks), Files())
    assert not [name for name in table["item_id"].to_pylist() if name.startswith(f"{masks.removeprefix('photos/')}/")]
    assert table["truth_uri"].to_pylist()[:2] == [f"{tmp_path / masks}/a.png", None]


def test_photos_may_be_among_the_masks(tmp_path: Path) -> None:
    images = touch(tmp_path / "set" / "photos", "a.jpg")
    masks = touch(tmp_path / "set", "a.png")
    assert from_masks(images, masks, Files())["truth_uri"].to_pylist() == [f"{masks}/a.png"]
    assert from_masks(images, images, Files())["truth_uri"].to_pylist() == [f"{images}/a.jpg"]


def test_ambiguous_or_missing_masks_are_refused(tmp_path: Path) -> None:
    images, masks = touch(tmp_path / "photos", "a.jpg"), touch(tmp_path / "masks", "a.png", "a.jpg")
    with pytest.raises(ConfigError, match="are both masks of 'a'; keep one"):
        from_masks(images, masks, Files())
    with pytest.raises(ConfigError, match="no mask below .* has the name of an image"):
        from_masks(images, touch(tmp_path / "others", "z.png"), Files())


def test_masks_are_listed_as_photos_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    images = touch(tmp_path / "photos", "a.jpg", "b/c.jpg")
    masks = touch(tmp_path / "masks", "a.png", "@eaDir/a.jpg/a.png", "@eaDir/b/c.png", "closed/x.png")
    (tmp_path / "masks" / "linked").symlink_to("../photos")
    real = os.scandir

    def scandir(path: str) -> Any:  # root may list every folder
        if str(path).endswith("/closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert from_masks(images, masks, Files())["truth_uri"].to_pylist() == [f"{masks}/a.png", None]
    assert [line.getMessage() for line in logged] == [
        f"{masks}/linked: links to folders are not followed; give the folders that they lead to",
        f"{masks}/closed: no permission to list; the files in there are left out",
    ]


def test_dis5k(tmp_path: Path) -> None:
    name, root = "4#Architecture#12#TV Tower#31401_o", tmp_path / "DIS5K"
    for part in ("DIS-VD", "DIS-TE1"):
        touch(root / part, f"im/{name}.jpg", "im/plain.jpg", f"gt/{name}.png", "gt/plain.png")
    rows = {row["item_id"]: row for row in from_dis5k(str(root), Files()).to_pylist()}
    assert set(rows) == {f"{part}/{stem}.jpg" for part in ("DIS-VD", "DIS-TE1") for stem in (name, "plain")}
    assert rows[f"DIS-VD/{name}.jpg"]["tags"] == "DIS-VD;Architecture"
    assert rows[f"DIS-VD/{name}.jpg"]["truth_uri"] == str(root / "DIS-VD" / "gt" / f"{name}.png")
    one_part = from_dis5k(str(root / "DIS-VD"), Files())["item_id"].to_pylist()
    assert one_part == [item_id for item_id in rows if item_id.startswith("DIS-VD/")]
    with pytest.raises(ConfigError, match="does not have the layout of DIS5K"):
        from_dis5k(touch(tmp_path / "other", "im/a.jpg"), Files())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_written_manifests_can_be_read(tmp_path: Path, suffix: str) -> None:
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
    result = scan(manifest, Files())
    assert (result.rows, result.with_box) == (2, 1)
    assert set(manifest.carried.names) == {"truth_uri", "tags"}
    if suffix == "csv":
        row = next(csv.DictReader((tmp_path / "manifest.csv").open()))
        values = {"item_id": "a", "image_uri": "a.jpg", "truth_uri": "m/a.png", "box": "[1, 2, 3, 4]", "tags": ["x", "y"]}
        assert row | {"tags": json.loads(row["tags"])} == values
