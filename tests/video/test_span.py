"""A part of a video: exact frames, times from its start, and the sound that belongs to it."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from clips import frames, variable_times, write_clip

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.manifest.videos import Part
from pipeline.video.draw import Draw
from pipeline.video.forms import FORMS
from pipeline.video.reader import VideoReader
from pipeline.video.span import ALL, Span, frames_in, span_of
from pipeline.video.steady import MaskedFrame
from pipeline.video.targets import Target, write_targets


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, frames(40, 48, 64), times_ms=variable_times(40), sound=["aac"])


def test_frames_of_a_part_keep_their_gaps(clip: Path) -> None:
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        unit = reader.facts.time_base
        all_frames = [(round(float(one.pts * unit) * 1000), one.pixels) for one in frames_in(reader, ALL)]
    assert [time for time, _ in all_frames] == variable_times(40)
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        span = span_of(Part(0.5, 1.5), reader.facts)
        some = [(round(float(one.pts * unit) * 1000), one.pixels) for one in frames_in(reader, span)]
    wanted = [(time - 500, pixels) for time, pixels in all_frames if 500 <= time < 1500]
    assert [time for time, _ in some] == [time for time, _ in wanted]
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(some, wanted, strict=True))


def test_a_part_behind_the_end_is_an_error(clip: Path) -> None:
    with (
        clip.open("rb") as file,
        VideoReader(file, Limits()) as reader,
        pytest.raises(DecodeError, match="no frame is between"),
    ):
        list(frames_in(reader, Span(60.0, math.inf)))


@pytest.mark.parametrize("form", ["webm", "mov", "mp4"])
def test_sound_is_that_of_the_part(clip: Path, tmp_path: Path, form: str) -> None:
    target = Target(tmp_path / f"x{FORMS[form].suffix}", FORMS[form], Draw("mask"))
    with clip.open("rb") as file, clip.open("rb") as sound, VideoReader(file, Limits()) as reader:
        span = span_of(Part(0.5, 1.5), reader.facts)
        masked = (MaskedFrame(one, np.zeros(one.pixels.shape[:2], np.uint8), 1.0) for one in frames_in(reader, span))
        write_targets(masked, reader.facts, [target], lambda: sound, span)
    with av.open(str(target.path)) as made:
        times = [float(one.pts * one.time_base) for one in made.decode(audio=0)]
    assert times[0] == pytest.approx(0, abs=0.06) and times[-1] == pytest.approx(1.0, abs=0.06)
