"""Paths as people have them, on the command line: what a command cannot use is refused by a sentence, and nothing is lost."""

from __future__ import annotations

import os
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
