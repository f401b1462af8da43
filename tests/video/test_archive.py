"""An archive of pictures is compared with what was written, and with its index row."""

from __future__ import annotations

import errno
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import WriteError
from pipeline.storage.files import Files
from pipeline.types import Size
from pipeline.video.archive import ArchiveWriter, check_archive
from pipeline.video.reader import Facts
from pipeline.video.valid import video_error
from pipeline.video.writer import Written


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Written]:
    path = tmp_path / "a.zip"
    with ArchiveWriter(path, Facts(Size(9, 12), Fraction(1, 25), Fraction(25), sound=("aac",))) as writer:
        for number in range(3):
            writer.add(np.full((9, 12, 4), 60 * number, np.uint8), number, 1)
        written = writer.finish()
    assert writer.notes == ["an archive of pictures has no sound"]
    return path, written


def nothing() -> None:
    pass


def test_an_archive_is_what_was_written(made: tuple[Path, Written]) -> None:
    path, written = made
    check_archive(path, written, nothing)
    assert video_error(str(path), Files(), 3, Size(9, 12)) is None


def test_differences_are_named(made: tuple[Path, Written]) -> None:
    path, written = made
    assert written.alpha is not None
    for changed, said in (
        (Written(Size(9, 13), written.seconds, written.alpha), "000000.png has 12 x 9 pixels instead of 13 x 9"),
        (Written(written.size, written.seconds, [0.0, 63.0, 120.0]), "000001.png has a mean alpha of 60.0 instead of 63.0"),
        (Written(written.size, [*written.seconds, 1.0], [*written.alpha, 1.0]), "it has 4 files instead of 5"),
    ):
        with pytest.raises(WriteError, match=f"the written archive differs: {said}"):
            check_archive(path, changed, nothing)
    assert video_error(str(path), Files(), 2, Size(9, 12)) == "it has 4 files instead of 3"


def test_damage_is_found(made: tuple[Path, Written]) -> None:
    path, _ = made
    data = path.read_bytes()
    path.write_bytes(data.replace(b"IDAT", b"IDOT", 1))
    assert "it can't be read" in (video_error(str(path), Files(), 3, Size(9, 12)) or "")
    path.write_bytes(data[:-30])
    assert "it can't be read" in (video_error(str(path), Files(), 3, Size(9, 12)) or "")
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("000000.png", "000001.png", "000002.png", "timestamps.txt"):
            archive.writestr(name, b"no picture")
    assert "it can't be read" in (video_error(str(path), Files(), 3, Size(9, 12)) or "")


def test_a_full_disk_is_an_error_of_the_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = Facts(Size(9, 12), Fraction(1, 25), Fraction(25))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="can't be written: No such file"):
        ArchiveWriter(tmp_path / "missing" / "a.zip", facts)
    for failing in ("writestr", "close"):
        with (
            monkeypatch.context() as patch,
            pytest.raises(WriteError, match="can't be written: No space left"),
            ArchiveWriter(tmp_path / "a.zip", facts) as writer,
        ):
            patch.setattr(zipfile.ZipFile, failing, full)
            patch.setattr(zipfile.ZipFile, "close", full)
            writer.add(np.zeros((9, 12, 4), np.uint8), 0, 1)
            writer.finish()
    with pytest.raises(WriteError, match="the written archive can't be read back: No such file"):
        check_archive(tmp_path / "gone.zip", Written(Size(9, 12), []), nothing)
