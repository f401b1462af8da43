"""Manifests as people have them: each is run in a worker process, run again with nothing to do, and verified."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

Photos = Callable[..., list[Path]]


def folder_with_a_table(folder: Path, photos: list[Path]) -> None:
    (folder / "shop.csv").write_text("sku,image_uri\n" + "".join(f"1,{photo.name}\n" for photo in photos), encoding="utf-8")


def image_folder(folder: Path, photos: list[Path]) -> None:
    (folder / "metadata.csv").write_text(
        "file_name,text\n" + "".join(f"{photo.name},x\n" for photo in photos), encoding="utf-8"
    )


def img2dataset(folder: Path, photos: list[Path]) -> None:
    (folder / "00000").mkdir()
    rows = [{"key": photo.stem, "status": "success", "url": "http://shop.example/1"} for photo in photos]
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    for photo in photos:
        photo.rename(folder / "00000" / photo.name)


def cells(folder: Path, photos: list[Path]) -> None:
    pictures = [{"bytes": photo.read_bytes(), "path": photo.name} for photo in photos]
    pq.write_table(pa.table({"image": pictures, "label": range(len(photos))}), folder / "train.parquet", row_group_size=2)
    for photo in photos:
        photo.unlink()


def plain_cells(folder: Path, photos: list[Path]) -> None:
    table = pa.table({"sku": [photo.stem for photo in photos], "jpg": [photo.read_bytes() for photo in photos]})
    pq.write_table(table, folder / "train.parquet")
    for photo in photos:
        photo.unlink()


def shards(folder: Path, photos: list[Path]) -> None:
    for number, photo in enumerate(photos):
        with tarfile.open(folder / f"{number // 2:05}.tar", "a") as archive:
            archive.add(photo, f"{photo.stem}.jpg")
            text = folder / f"{photo.stem}.json"
            text.write_text(json.dumps({"caption": "a shoe", "width": 120}), encoding="utf-8")
            archive.add(text, text.name)
        photo.unlink()


FORMS: dict[str, tuple[Callable[[Path, list[Path]], None], str, list[str]]] = {
    "a folder with a table": (folder_with_a_table, "", ["photo-000.jpg", "photo-001.jpg", "photo-002.jpg"]),
    "an image folder": (image_folder, "", ["photo-000.jpg", "photo-001.jpg", "photo-002.jpg"]),
    "an output of img2dataset": (img2dataset, "", ["photo-000", "photo-001", "photo-002"]),
    "structs of bytes": (cells, "", ["train-000000", "train-000001", "train-000002"]),
    "shards": (shards, "", ["photo-000", "photo-001", "photo-002"]),
    "a pattern of shards": (shards, "*.tar", ["photo-000", "photo-001", "photo-002"]),
    "bytes": (plain_cells, "train.parquet", ["train-000000", "train-000001", "train-000002"]),
}
"""What writes the form, the manifest below its folder, and the ids of the items."""


@pytest.mark.parametrize("form", FORMS)
def test_a_run_of_each_form(form: str, matteline: Any, tmp_path: Path, make_photos: Photos, fake_preset: str) -> None:
    write, manifest, ids = FORMS[form]
    folder = tmp_path / "in"
    write(folder, make_photos(folder, 3))
    command = ("run", "-m", f"in/{manifest}", "-p", fake_preset, "-r", "transparent", "-o")
    done = matteline(*command, "out")
    assert done.returncode == 0, done.stderr
    index = ds.dataset(tmp_path / "out" / "index", format="parquet").to_table(["item_id", "status", "image_sha256"])
    assert sorted(index["item_id"].to_pylist()) == ids
    assert "failed" not in index["status"].to_pylist()
    assert "0 of 3 items to do" in matteline(*command, "out").stderr
    assert "0 of 3 items to do" in matteline(*command, "out", "--changed").stderr
    assert matteline("verify", "out").returncode == 0
    assert matteline("report", "out", "-o", "report.html").returncode == 0
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("photo not shown") == 0
    if not manifest:
        assert matteline(*command, "in/out").returncode == 2


def test_verify_knows_the_roots_of_the_last_run(matteline: Any, tmp_path: Path, make_photos: Photos, fake_preset: str) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    (tmp_path / "feeds").mkdir()
    for name in ("items.csv", "copy.csv"):
        (tmp_path / "feeds" / name).write_text(
            "\n".join(["sku,url", *(f"{number},{one}" for number, one in enumerate(photos))])
        )
    columns = ("--image-column", "url", "--id-column", "sku")
    done = matteline("run", "-m", "feeds/items.csv", "-o", "out", "-p", fake_preset, *columns, "--allow-root", "photos")
    assert done.returncode == 0, done.stderr
    assert matteline("verify", "out").returncode == 0
    copy = ("verify", "out", "-m", "feeds/copy.csv", *columns)
    assert matteline(*copy).returncode == 1, "another manifest has roots of its own"
    assert matteline(*copy, "--allow-root", "photos").returncode == 0
