"""Decoders and encoders end with the video, not when Python's garbage collector runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from clips import frames, write_clip

from pipeline import Segmenter
from pipeline.config.job import Limits, Storage
from pipeline.errors import DecodeError, WriteError
from pipeline.manifest.videos import Part
from pipeline.storage.files import Files
from pipeline.video import cut
from pipeline.video.cut import cut_video
from pipeline.video.draw import Draw
from pipeline.video.forms import FORMS
from pipeline.video.reader import VideoReader
from pipeline.video.stills import still, written_still

COUNT = 24


def threads_after(level: int, patience_s: float = 10.0) -> int:
    """Return the number of threads of this process, as soon as it is no higher than a level: a thread ends a little later."""
    until = time.monotonic() + patience_s
    while (found := psutil.Process().num_threads()) > level and time.monotonic() < until:
        time.sleep(0.01)
    return found


@pytest.fixture
def segmenter(fake_preset: str) -> Segmenter:
    return Segmenter(fake_preset)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", frames(COUNT, 96, 128), sound=["flac"], options={"g": "8"})


@pytest.fixture
def damaged(clip: Path) -> Path:
    """The clip, whose pictures are damaged from the 16th on."""
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as source:
        packets = [(one.pos, one.size) for one in source.demux(video=0) if one.size]
    for at, size in packets[16:]:
        data[at : at + size] = b"\xff" * size
    path = clip.with_name("damaged.mp4")
    path.write_bytes(data)
    return path


def cut_out(source: Path, target: Path, segmenter: Segmenter, **options: Any) -> None:
    form = FORMS[target.suffix[1:]]
    draw = Draw("cutout" if form.clear else "filled")
    cut_video(str(source), str(target), form, draw, lambda: segmenter, Files(Storage()), Limits(), **options)


def level_after(work: Callable[[], object]) -> tuple[int, int]:
    """Return the threads after work was done once, when all that stays has begun, and after it was done twice more."""
    work()
    level = threads_after(0, patience_s=0.5)
    for _ in range(2):
        work()
    return level, threads_after(level)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("form", ["webm", "mov", "mp4"])
def test_threads_end_with_a_cut(clip: Path, tmp_path: Path, segmenter: Segmenter, form: str) -> None:
    level, after = level_after(lambda: cut_out(clip, tmp_path / f"made.{form}", segmenter))
    assert after <= level


@pytest.mark.usefixtures("no_collector")
def test_threads_end_with_a_part(clip: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    """Frames behind the part are not taken, so the decoder has not reached the end."""
    level, after = level_after(lambda: cut_out(clip, tmp_path / "made.webm", segmenter, part=Part(0.2, 0.6)))
    assert after <= level


@pytest.mark.usefixtures("no_collector")
def test_threads_end_with_a_damaged_video(damaged: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    def fail() -> None:
        try:
            cut_out(damaged, tmp_path / "made.webm", segmenter)
        except DecodeError as error:
            assert "damaged" in str(error)
        else:
            raise AssertionError("it is damaged")

    level, after = level_after(fail)
    assert after <= level


@pytest.mark.usefixtures("no_collector")
def test_threads_end_with_a_file_that_cannot_be_written(
    clip: Path, tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise WriteError("no space left")

    monkeypatch.setattr(cut, "store", refuse)

    def fail() -> None:
        with suppress(WriteError):
            cut_out(clip, tmp_path / "made.webm", segmenter)

    level, after = level_after(fail)
    assert after <= level


@pytest.mark.usefixtures("no_collector")
def test_threads_end_with_a_reader_that_is_closed_early(clip: Path) -> None:
    def look() -> None:
        with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
            next(iter(reader))

    level, after = level_after(look)
    assert after <= level
    kept = []
    for _ in range(3):
        with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
            next(iter(reader))
            kept.append(reader)
    assert threads_after(level) <= level, "a closed reader has no decoder"


@pytest.mark.usefixtures("no_collector")
def test_threads_end_with_a_still(clip: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    cut_out(clip, tmp_path / "made.webm", segmenter)

    def look() -> None:
        with clip.open("rb") as file, (tmp_path / "made.webm").open("rb") as made:
            assert still(file, 0.4, Limits()).shape == (96, 128, 3)
            assert np.shape(written_still(made, 0.4)) == (96, 128, 4)

    level, after = level_after(look)
    assert after <= level
