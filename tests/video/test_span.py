"""A part of a video: exact frames, times from its start, and the sound that belongs to it."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import frames, variable_times, write_clip
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.manifest.videos import Part
from pipeline.video import sound as sound_module
from pipeline.video.colour import Converter
from pipeline.video.draw import Draw
from pipeline.video.forms import FORMS
from pipeline.video.reader import VideoReader
from pipeline.video.sound import Sound
from pipeline.video.span import ALL, Span, frames_expected, frames_in, length_of, span_of
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


def test_the_length_of_a_part_is_not_that_of_the_video() -> None:
    whole = (500, 20.0)
    found = [length_of(part, whole) for part in (Part(), Part(5.0), Part(None, 10.0), Part(18.0, 99.0), Part(30.0))]
    assert found == [whole, (375, 15.0), (250, 10.0), (50, 2.0), (0, 0.0)]
    assert length_of(Part(1.0), None) is None


@pytest.fixture(scope="module", params=["mp4", "matroska"])
def long_clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "long"
    options = {"g": "25", "bf": "2"}
    return write_clip(path, frames(10, 48, 64) * 25, container=request.param, options=options, sound=["aac"])


def test_frames_are_expected_by_the_header(long_clip: Path) -> None:
    with long_clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        parts = (Part(), Part(2.0, 4.0), Part(None, 99.0), Part(50.0))
        found = [frames_expected(reader.facts, part, Limits()) for part in parts]
        assert found == [pytest.approx(250, abs=2), pytest.approx(50, abs=2), pytest.approx(250, abs=2), 0]
        assert frames_expected(reader.facts, Part(), Limits(max_frames=100)) == 100, "it fails there"
        silent = replace(reader.facts, frames=0, seconds=0.0)
        assert [frames_expected(silent, part, Limits()) for part in parts] == [0, 0, 0, 0]


def test_a_late_part_is_sought_and_frames_before_it_are_not_converted(long_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats, converted = list[int](), list[int]()
    to_rgb = Converter.to_rgb
    monkeypatch.setattr(Converter, "to_rgb", lambda *arguments: converted.append(1) or to_rgb(*arguments))
    with long_clip.open("rb") as file, VideoReader(file, Limits(), lambda: beats.append(1)) as reader:
        found = list(frames_in(reader, span_of(Part(8.5, 9.0), reader.facts)))
    assert [round(float(one.pts * reader.facts.time_base) * 1000) for one in found] == [20 + 40 * i for i in range(12)]
    assert len(converted) <= 1 + 12 + 1, "the first frame of the video, those of the part, the one behind it"
    assert 0 < len(beats) <= 25, "the frames between the keyframe and the part"
    with long_clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        whole = [one for one in reader if 8.5 <= float(one.pts * reader.facts.time_base) < 9.0]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(found, whole, strict=True))


def test_limits_are_those_of_the_part(long_clip: Path) -> None:
    for limits in (Limits(max_seconds=2), Limits(max_frames=30)):
        with long_clip.open("rb") as file, VideoReader(file, limits) as reader:
            assert len(list(frames_in(reader, span_of(Part(8.0, 9.0), reader.facts)))) == 25
        with (
            long_clip.open("rb") as file,
            VideoReader(file, limits) as reader,
            pytest.raises(DecodeError, match=r"\(limits\.max_"),
        ):
            list(frames_in(reader, span_of(Part(6.5, 9.5), reader.facts)))


def test_a_file_that_cannot_be_sought_is_read_from_its_start(long_clip: Path) -> None:
    class Unsought:
        def __init__(self, container: Any) -> None:
            self.container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self.container, name)

        def seek(self, *_: Any, **__: Any) -> None:
            raise av.error.InvalidDataError(1, "no index")

    beats = list[int]()
    with long_clip.open("rb") as file, VideoReader(file, Limits(), lambda: beats.append(1)) as reader:
        reader._container = Unsought(reader._container)
        assert len(list(frames_in(reader, span_of(Part(8.5, 9.0), reader.facts)))) == 12
    assert len(beats) > 200, "a sign of life for every frame that is passed over"


def test_a_part_of_an_animation() -> None:
    sink = io.BytesIO()
    first, *others = [Image.fromarray(one) for one in frames(6, 48, 64)]
    first.save(sink, "GIF", save_all=True, append_images=others, duration=100)
    sink.seek(0)
    with VideoReader(sink, Limits(max_frames=100)) as reader:
        assert [one.pts for one in frames_in(reader, span_of(Part(0.15, 0.45), reader.facts))] == [50, 150, 250]


def test_a_part_behind_the_end_is_an_error(clip: Path) -> None:
    with (
        clip.open("rb") as file,
        VideoReader(file, Limits()) as reader,
        pytest.raises(DecodeError, match=r"no frame is between.*the last one before is at 2\.2\d s"),
    ):
        list(frames_in(reader, Span(60.0, math.inf)))


@pytest.mark.parametrize("form", ["webm", "mov", "mp4"])
def test_sound_is_that_of_the_part(clip: Path, tmp_path: Path, form: str) -> None:
    target = Target(tmp_path / f"x{FORMS[form].suffix}", FORMS[form], Draw("mask"))
    with clip.open("rb") as file, clip.open("rb") as sound, VideoReader(file, Limits()) as reader:
        span = span_of(Part(0.5, 1.5), reader.facts)
        masked = (MaskedFrame(one, np.zeros(one.pixels.shape[:2], np.uint8), 1.0) for one in frames_in(reader, span))
        write_targets(masked, reader.facts, [target], lambda: sound, Limits(), span)
    with av.open(str(target.path)) as made:
        times = [float(one.pts * one.time_base) for one in made.decode(audio=0)]
    assert times[0] == pytest.approx(0, abs=0.06) and times[-1] == pytest.approx(1.0, abs=0.06)


def test_sound_of_a_late_part_is_sought(long_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_module, "EARLY_S", 1.0)
    span = Span(8.5, 9.0)
    for form in ("mov", "webm"):  # copied, encoded again
        with long_clip.open("rb") as file, av.open(str(tmp_path / f"x.{form}"), "w") as output:
            sound = Sound(file, output, FORMS[form], Limits(), span)
            sound._waiting = next(sound._packets)
            assert float(sound._waiting.pts * sound._waiting.time_base) > 6
            packets = list(sound.packets(math.inf))
            sound.close()
        times = [float(one.pts * one.time_base) for one in packets]
        assert times[0] == pytest.approx(0, abs=0.06) and times[-1] == pytest.approx(0.5, abs=0.06)
