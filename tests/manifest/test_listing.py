"""Folders with links, unreadable folders and files of other kinds: what is listed, and what is said of the rest."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageError
from pipeline.manifest import listing
from pipeline.manifest.build import from_folder
from pipeline.manifest.listing import is_system_file, list_folder
from pipeline.manifest.manifest import open_manifest, scan
from pipeline.storage.files import Files


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


def test_other_files_are_counted_by_suffix(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    touch(tmp_path, "a.jpg", "b.CR2", "c.cr2", "d.psd", "noext", "e.jpg/x.txt", ".hidden.cr2", "Thumbs.db", "@eaDir/t.nef")
    assert list(list_folder(str(tmp_path), Files(), (".jpg",))) == [f"{tmp_path}/a.jpg"]
    (line,) = [one.getMessage() for one in logged]
    assert line == f"{tmp_path}: 5 files are left out, by suffix .cr2: 2, .psd: 1, .txt: 1, no suffix: 1"


def test_videos_need_no_package_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    """``matteline manifest`` lists images only."""
    touch(tmp_path, "a.jpg", "b.mp4")
    for suffixes, hint in (((".mp4",), ""), ((), "; for videos: pip install 'matteline[video]'")):
        monkeypatch.setattr(listing, "folder_suffixes", lambda suffixes=suffixes: suffixes)
        from_folder(str(tmp_path), Files())
        assert logged.pop().getMessage() == f"{tmp_path}: 1 file is left out, by suffix .mp4: 1{hint}"


def test_a_folder_of_images_alone_says_nothing(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    touch(tmp_path, "a.jpg", "b/c.PNG")
    assert scan(open_manifest(str(tmp_path), Files()), Files()).rows == 2
    assert from_folder(str(tmp_path), Files())["item_id"].to_pylist() == ["a.jpg", "b/c.PNG"]
    assert not logged


def test_links(tmp_path: Path, logged: list[logging.LogRecord]) -> None:
    """A linked file is an item, and so is one that leads nowhere, which fails. Linked folders are named."""
    touch(tmp_path, "other/x.jpg", "in/a.jpg")
    (tmp_path / "in" / "file.jpg").symlink_to("a.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nothing.jpg")
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "in" / "linked").symlink_to("../other")
    (tmp_path / "in" / "round").symlink_to(".")
    found = from_folder(str(tmp_path / "in"), Files())["item_id"].to_pylist()
    assert found == ["a.jpg", "file.jpg", "gone.jpg", "loop.jpg"]
    (line,) = [one.getMessage() for one in logged]
    assert line.startswith(f"{tmp_path}/in/linked and 1 more: links to folders are not followed")


def test_a_folder_without_permission_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg", "z/c.jpg")
    real = os.scandir

    def scandir(path: str) -> Any:  # root may list every folder
        if str(path).endswith("/closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert from_folder(str(tmp_path), Files())["item_id"].to_pylist() == ["a.jpg", "z/c.jpg"]
    (line,) = [one.getMessage() for one in logged]
    assert line == f"{tmp_path}/closed: no permission to list; the files in there are left out"
    with pytest.raises(StorageError, match=f"^{tmp_path}/closed: "):
        list(Files().list(str(tmp_path)))  # all other listings must be complete


@pytest.mark.parametrize(
    "path",
    [
        *("@eaDir/a.jpg/SYNOPHOTO.jpg", "x/__MACOSX/a.jpg", "x/Thumbs.db", "lost+found/a.jpg", "x/$Recycle.Bin/a.jpg"),
        *("@Recently-Snapshot/1/a.jpg", "@sharebin/a.jpg", "x/@tmp/a.jpg", "@SynoResource/a.jpg"),
        "Lightroom Catalog Previews.lrdata/0/a.jpg",
    ],
)
def test_files_of_the_system(path: str) -> None:
    assert is_system_file(path)
    assert not is_system_file(path.replace("/", "-"))


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        open_manifest(str(tmp_path / "none"), Files())
