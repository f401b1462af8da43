"""What storage does wrong while a video streams is an error of its item; a ``#`` in a name is no picture in another file."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pytest
from clips import frames, write_clip
from s3fs.utils import FileExpired

from pipeline.config.job import Limits
from pipeline.errors import FetchError, WriteError
from pipeline.storage.files import Files
from pipeline.types import Size
from pipeline.video.cut import part_of
from pipeline.video.reader import VideoReader
from pipeline.video.source import Source
from pipeline.video.valid import video_error

SMALL = frames(6, 48, 64)
LATE = 100_000
"""Bytes behind what the demuxer reads to know a file."""


class Failing(io.BytesIO):
    """Fails after so many bytes."""

    def __init__(self, data: bytes, after: int, error: Exception) -> None:
        super().__init__(data)
        self.after, self.error = after, error

    def readinto(self, buffer: Any) -> int:
        if self.tell() >= self.after:
            raise self.error
        return super().readinto(memoryview(buffer)[: self.after - self.tell()])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileExpired("clip.mkv", "tag"), r"s3://shop/clip.mkv: it changed while it was read; .* --retry fetch"),
        (OSError(errno.EIO, "broken"), "s3://shop/clip.mkv: the operating system reports 'input/output error'"),
        (ConnectionResetError(), r"s3://shop/clip.mkv: it can't be reached"),
    ],
)
@pytest.mark.parametrize("after", [0, LATE])
def test_a_store_that_fails_while_a_video_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, after: int
) -> None:
    lossless = {"container": "matroska", "encoder": "ffv1", "pixel_format": "bgr0"}
    data = write_clip(tmp_path / "clip.mkv", frames(80, 48, 64), **lossless).read_bytes()
    assert len(data) > 1.5 * LATE
    monkeypatch.setattr(Files, "open_input", lambda _files, _uri: Failing(data, after, error))
    with (
        Source("s3://shop/clip.mkv", Files(), Limits()) as source,
        pytest.raises(FetchError, match=said),
        VideoReader(source.open(), Limits()) as reader,
    ):
        list(reader)


def test_a_disk_that_fails_while_a_video_streams(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", SMALL)
    with Source(str(path), Files(), Limits()) as source:
        file = source.open()
        source._stack.close()  # a closed file is one that cannot be read
        with pytest.raises(FetchError, match=r"clip.mp4: "):
            file.read()


def test_a_sign_in_a_name_is_no_picture_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "take #2.mp4", SMALL)
    monkeypatch.setattr(Files, "read", lambda *_, **__: pytest.fail("it was read into memory"))
    few = Limits(max_bytes=10)
    with Source(str(path), Files(), few) as source, VideoReader(source.open(), few) as reader:
        assert len(list(reader)) == len(SMALL)
        assert source.digest()[1] == path.stat().st_size
    assert video_error(str(path), Files(), len(SMALL), Size(48, 64)) is None


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "clip.webm").touch()
    said = "a file is where a folder of this name is needed; give the item another"
    with pytest.raises(WriteError, match=said), part_of(str(tmp_path / "clip.webm" / "x.webm")):
        pass


def test_a_file_that_cannot_be_deleted_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(WriteError, match="first"), part_of(str(tmp_path / "x.webm")):
        raise WriteError("first")
