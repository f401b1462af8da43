"""Paths as people have them, on the command line: what a command cannot use is refused by a sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.paths import EXAMPLES

Command = Callable[..., subprocess.CompletedProcess[str]]

LATIN_1 = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8, as unpacking an old archive makes it."""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with ``photos/``, the table ``m.csv``, and copies of both in a folder whose name is not UTF-8."""
    photo = (EXAMPLES / "espresso.jpg").read_bytes()
    try:
        for folder in (tmp_path, tmp_path / LATIN_1, tmp_path / "hive" / f"k={LATIN_1}"):
            (folder / "photos").mkdir(parents=True)
            (folder / "photos" / "a.jpg").write_bytes(photo)
            (folder / "m.csv").write_text("image_uri\nphotos/a.jpg\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("run", "-m", f"{LATIN_1}/photos", "-o", "out"),
        ("run", "-m", f"{LATIN_1}/m.csv", "-o", "out"),
        ("run", "-m", f"{LATIN_1}/*.csv", "-o", "out"),
        ("run", "-m", "hive/*/*.csv", "-o", "out"),
        ("run", "-m", "photos", "-o", LATIN_1 + "/out"),
        ("run", "-m", "photos", "-o", "out", "--allow-root", f"/{LATIN_1}"),
        ("run", "-m", "photos", "-o", "out", "--set", f"output.name={LATIN_1}{{item_id}}"),
        ("run", "-m", "m.csv", "-o", "out", "--image-column", LATIN_1),
        ("plan", "-m", f"{LATIN_1}/photos", "-o", "out"),
        ("detect", "-m", f"{LATIN_1}/photos", "-o", "boxes.parquet", "--label", "cup"),
        ("evaluate", "-m", f"{LATIN_1}/m.csv", "-o", "out"),
        ("evaluate", "-m", "m.csv", "-o", LATIN_1),
        ("manifest", f"{LATIN_1}/photos", "-o", "x.csv"),
        ("manifest", "photos", "--masks", f"{LATIN_1}/photos", "-o", "x.csv"),
    ],
)
def test_paths_that_are_not_utf8_are_refused(here: Path, matteline: Command, command: tuple[str, ...]) -> None:
    refused = matteline(*command, cwd=here)
    assert refused.returncode == 2, refused.stderr
    assert "not UTF-8; rename" in refused.stderr
    assert not (here / "out" / "index").exists()


def test_a_working_folder_that_is_not_utf8_is_refused(here: Path, matteline: Command) -> None:
    refused = matteline("run", "-m", "photos", "-o", "out", cwd=here / LATIN_1)
    assert refused.returncode == 2
    assert "caf\\udce9/photos: a name in this path is not UTF-8; rename the file or folder" in refused.stderr


@pytest.fixture
def photos(tmp_path: Path, make_photos: Callable[..., list[Path]]) -> dict[Path, bytes]:
    """Photos in ``photos/``, to which ``link/`` leads, and tables and pages that are the user's own, with their content."""
    made = make_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "photo-000-amazon-main.jpg").write_bytes(made[0].read_bytes())
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "shop.csv").write_text("image_uri,item_id,price\nphotos/photo-000.jpg,1,2\n")
    (tmp_path / "shop.jsonl").write_text('{"image_uri": "photos/photo-000.jpg", "price": 2}\n')
    (tmp_path / "shop.parquet").write_bytes(b"of another program")
    (tmp_path / "page.html").write_text("<!doctype html><title>mine</title>")
    return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("cut", "photos/photo-000.jpg", "-o", "link/photo-000.jpg"), "is what the command reads"),
        (("cut", "photos/photo-000.jpg", "-o", "o.png", "--mask", "link/photo-000.jpg"), "is what the command reads"),
        (
            (
                "cut",
                "photos/photo-000.jpg",
                "link/photo-000-amazon-main.jpg",
                "-o",
                "photos/",
                "-r",
                "amazon-main",
                "--format",
                "png",
            ),
            "--rendition .*photo-000-amazon-main.jpg is what the command reads",
        ),
        (("cut", "shop.mp4", "-o", "again.mp4"), "again.mp4 is what the command reads"),
        (("manifest", "photos", "-o", "shop.csv"), "exists and has columns that would be lost ('price')"),
        (("manifest", "photos", "-o", "shop.jsonl"), "exists and has columns that would be lost ('price')"),
        (("manifest", "photos", "-o", "shop.parquet"), "exists and is not a manifest"),
        (("detect", "-m", "shop.csv", "-o", "shop.parquet", "--label", "cup"), "shop.parquet exists"),
        (("show", "out", "--sheet", "photos/photo-000.jpg"), "exists, and this command did not write it"),
        (("show", "out", "--sheet", "shop.csv"), "must end in .jpg or .jpeg"),
        (("report", "out", "-o", "page.html"), "exists, and this command did not write it"),
        (("report", "out", "-o", "photos/photo-000.jpg"), "must end in .html or .htm"),
        (("compare", "out", "out", "-o", "page.html"), "exists, and this command did not write it"),
    ],
)
def test_inputs_and_the_files_of_others_are_not_overwritten(
    tmp_path: Path, photos: dict[Path, bytes], matteline: Command, fake_preset: str, command: tuple[str, ...], said: str
) -> None:
    if "out" in command:
        assert matteline("run", "-m", "photos", "-o", "out", "-p", fake_preset).returncode == 0
    if "shop.mp4" in command:
        (tmp_path / "shop.mp4").write_bytes(b"x")
        (tmp_path / "again.mp4").symlink_to("shop.mp4")
    refused = matteline(*command)
    assert refused.returncode == 2, refused.stderr
    assert re.search(said if ".*" in said else re.escape(said), refused.stderr)
    assert {path: path.read_bytes() for path in photos} == photos


def test_own_files_are_written_again(tmp_path: Path, photos: dict[Path, bytes], matteline: Command, fake_preset: str) -> None:
    assert matteline("run", "-m", "photos", "-o", "out", "-p", fake_preset).returncode == 0
    for command in (
        ("manifest", "photos", "--masks", "photos", "-o", "m.csv"),
        ("manifest", "photos", "-o", "m.csv"),
        ("show", "out", "--sheet", "sheet.jpg"),
        ("show", "out", "--sheet", "out/sheet.jpg"),
        ("report", "out", "-o", "own.html"),
        ("compare", "out", "out", "-o", "own.html"),
    ):
        for _ in range(2):
            done = matteline(*command)
            assert done.returncode == 0, done.stderr


def test_annotations_are_not_replaced_by_those_of_the_run(
    tmp_path: Path, photos: dict[Path, bytes], matteline: Command, fake_preset: str
) -> None:
    image = {"id": 1, "file_name": "photo-000.jpg", "width": 100, "height": 80}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 50, 50], "iscrowd": 0}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (tmp_path / "same.json").symlink_to("coco.json")
    assert matteline("manifest", "photos", "--coco", "coco.json", "-o", "m.csv").returncode == 0
    assert matteline("run", "-m", "m.csv", "-o", "out", "-p", fake_preset).returncode == 0
    for target in ("coco.json", "same.json"):
        refused = matteline("dataset", "out", "--coco", target)
        assert refused.returncode == 2 and "is what the command reads" in refused.stderr, refused
    assert json.loads((tmp_path / "coco.json").read_text()) == content
