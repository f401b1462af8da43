"""A video whose sound is damaged or stops is written with all its frames, and a remark says what is missing."""

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from clips import frames, remuxed, write_clip

from pipeline.config.job import Limits
from pipeline.video.draw import Draw
from pipeline.video.forms import FORMS
from pipeline.video.heard import Heard
from pipeline.video.reader import VideoReader
from pipeline.video.sound import Sound
from pipeline.video.steady import MaskedFrame
from pipeline.video.targets import Target, write_targets

COUNT = 100
"""Frames of a clip: four seconds."""


def written(clip: Path, form: str) -> list[str]:
    """Write a clip in a form, which reads it back and compares it. Returns the remarks. No frame may be missing."""
    data = clip.read_bytes()
    target = Target(clip.with_name(f"made.{form}"), FORMS[form], Draw("mask"))
    with VideoReader(io.BytesIO(data), Limits()) as reader:
        masked = (MaskedFrame(one, np.full(one.pixels.shape[:2], 200, np.uint8), 1.0) for one in reader)
        write_targets(masked, reader.facts, [target], lambda: io.BytesIO(data), Limits())
    with av.open(str(target.path)) as made:
        assert sum(1 for _ in made.decode(video=0)) == COUNT
    return target.notes


def seconds_of_sound(path: Path) -> float:
    with av.open(str(path)) as made:
        return sum(float(one.duration * one.time_base) for one in made.demux(audio=0) if one.size)


@pytest.fixture(scope="module", params=["matroska", "mp4"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds with two tracks of AAC."""
    path = tmp_path_factory.mktemp("clip") / f"clip.{ {'matroska': 'mkv'}.get(request.param, request.param) }"
    return write_clip(path, frames(25, 48, 64) * 4, container=request.param, sound=["aac", "aac"])


@pytest.mark.parametrize("form", ["mov", "webm"], ids=["copied", "encoded again"])
def test_sound_that_stops_is_named(clip: Path, tmp_path: Path, form: str) -> None:
    def keep(packet: Any) -> bool:
        return packet.stream.index != 2 or packet.pts * packet.time_base < 1.5

    broken = remuxed(clip, tmp_path / f"broken{clip.suffix}", keep)
    (remark,) = written(broken, form)
    assert re.fullmatch(r"sound track 1 has no sound from 1\.[45]\d s to 4\.00 s", remark)


@pytest.mark.parametrize("form", ["mov", "webm"], ids=["copied", "encoded again"])
def test_a_gap_in_the_sound_is_named_and_what_follows_stays_in_time(clip: Path, tmp_path: Path, form: str) -> None:
    broken = remuxed(
        clip,
        tmp_path / f"broken{clip.suffix}",
        lambda packet: packet.stream.index != 1 or not 1 <= packet.pts * packet.time_base < 2.5,
    )
    (remark,) = written(broken, form)
    assert re.fullmatch(r"sound track 0 has no sound from 1\.0\d s to 2\.[45]\d s", remark)
    with av.open(str(tmp_path / f"made.{form}")) as made:
        packets = [one for one in made.demux(audio=0) if one.size]
        assert float(packets[-1].pts * packets[-1].time_base) == pytest.approx(4.0, abs=0.1)


def test_damaged_packets_are_left_out_and_counted(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames(25, 48, 64) * 4, container="matroska", sound=["flac"])
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as source:
        packets = [bytes(one) for one in source.demux(audio=0) if one.size and 1 <= one.pts * one.time_base < 3]
    assert len(packets) > 5
    for packet in packets:
        data = data.replace(packet, bytes(len(packet)))
    clip.write_bytes(data)
    damaged, silent = written(clip, "webm")
    assert re.fullmatch(rf"sound track 0: {len(packets)} damaged packets are left out, the first one at 1\.0\d s", damaged)
    assert re.fullmatch(r"sound track 0 has no sound from 1\.0\d s to 3\.0\d s", silent)


@pytest.mark.parametrize("form", ["mov", "mp4", "webm"])
def test_bytes_that_were_overwritten_cost_no_frame(tmp_path: Path, form: str) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames(25, 48, 64) * 4, sound=["aac"])
    data = bytearray(clip.read_bytes())
    with av.open(str(clip)) as source:
        for packet in source.demux(audio=0):
            if packet.size and 1 <= packet.pts * packet.time_base < 3:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    clip.write_bytes(data)
    remarks = written(clip, form)
    assert len(remarks) == (2 if form == "webm" else 0), "damaged packets are copied as they are"


@pytest.mark.parametrize("form", ["mov", "webm"], ids=["copied", "encoded again"])
def test_packets_whose_times_run_backwards_are_left_out(tmp_path: Path, form: str) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames(25, 48, 64), container="matroska", sound=["aac"])
    with clip.open("rb") as file, av.open(str(tmp_path / f"out.{form}"), "w") as output:
        sound = Sound(file, output, FORMS[form], Limits())
        packets = list(sound._source.demux(audio=0))
        for packet in packets[30:35]:
            packet.pts = packet.dts = packet.pts - 500
        sound._packets = iter(packets)
        for packet in sound.packets(float("inf")):
            output.mux(packet)
        remarks = sound.remarks(0.0, 1.0)
        sound.close()
    (remark,) = remarks
    assert re.fullmatch(r"sound track 0: 5 damaged packets are left out, the first one at 0\.1\d s", remark)
    assert seconds_of_sound(tmp_path / f"out.{form}") == pytest.approx(1.0, abs=0.1)


def test_packets_without_a_time_are_left_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames(25, 48, 64), container="matroska", sound=["aac"])
    with clip.open("rb") as file, av.open(str(tmp_path / "out.mov"), "w") as output:
        sound = Sound(file, output, FORMS["mov"], Limits())
        packets = list(sound._source.demux(audio=0))
        packets[7].pts = None
        sound._packets = iter(packets)
        for packet in sound.packets(float("inf")):
            output.mux(packet)
        assert [one.split(",")[0] for one in sound.remarks(0.0, 1.0)] == ["sound track 0: 1 damaged packets are left out"]
        sound.close()


def test_sound_ends_where_the_demuxer_cannot_go_on(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames(25, 48, 64) * 4, container="matroska", sound=["aac"])

    def failing(packets: list[Any]) -> Any:
        yield from packets
        raise av.error.InvalidDataError(1094995529, "Invalid data found")

    with clip.open("rb") as file, av.open(str(tmp_path / "out.mov"), "w") as output:
        sound = Sound(file, output, FORMS["mov"], Limits())
        sound._packets = failing(list(sound._source.demux(audio=0))[:50])
        made = list(sound.packets(float("inf")))
        assert len(made) == 50
        first, second = sound.remarks(0.0, 4.0)
        sound.close()
    assert re.fullmatch(r"the sound can't be read further than 1\.0\d s: Invalid data found", first)
    assert re.fullmatch(r"sound track 0 has no sound from 1\.0\d s to 4\.00 s", second)


def test_a_track_without_a_rate_is_left_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames(5, 48, 64), container="matroska", sound=["aac"])
    with clip.open("rb") as file, av.open(str(tmp_path / "out.mov"), "w") as output:
        sound = Sound(file, output, FORMS["mov"], Limits())
        sound._add(1, SimpleNamespace(codec_context=SimpleNamespace(sample_rate=0, channels=2)), output, FORMS["mov"])
        assert sound.notes == ["sound track 1 has no sample rate or no channels and is left out"]
        assert len(sound.written) == 1
        sound.close()


def test_several_gaps_are_counted() -> None:
    heard = Heard(2)
    for second in (0.0, 5.0, 5.1, 9.0):
        heard.carry(second, second + 0.1)
    assert heard.remarks(0.0, 9.1) == ["sound track 2 has no sound from 0.10 s to 5.00 s, and in 1 more places"]
    assert heard.remarks(0.0, 20.0) == ["sound track 2 has no sound from 0.10 s to 5.00 s, and in 2 more places"]
    assert Heard(0).remarks(0.0, 1.0) == ["sound track 0 has no sound there"]
