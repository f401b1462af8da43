"""Sound: parts of it, channels and rates that an encoder does not take, codecs that are copied, languages."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from clips import frames, write_clip

from pipeline.config.job import Limits
from pipeline.errors import WriteError
from pipeline.video.container import codec_name
from pipeline.video.draw import Draw
from pipeline.video.forms import FORMS
from pipeline.video.reader import VideoReader
from pipeline.video.sound import Sound
from pipeline.video.span import Span
from pipeline.video.steady import MaskedFrame
from pipeline.video.targets import Target, write_targets

PICTURES = frames(8, 48, 64)


def converted(clip: Path, form: str) -> Path:
    """Write a clip in a form, which reads it back and compares it."""
    target, data = clip.with_name(f"made.{form}"), clip.read_bytes()
    with VideoReader(io.BytesIO(data), Limits()) as reader:
        masked = (MaskedFrame(one, np.full(one.pixels.shape[:2], 200, np.uint8), 1.0) for one in reader)
        write_targets(masked, reader.facts, [Target(target, FORMS[form], Draw("mask"))], lambda: io.BytesIO(data), Limits())
    return target


def tracks_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return [
            SimpleNamespace(
                codec=codec_name(one.codec_context),
                layout=one.codec_context.layout.name,
                rate=one.codec_context.sample_rate,
                told=dict(one.metadata),
                default=bool(one.disposition & av.stream.Disposition.default),
            )
            for one in container.streams.audio
        ]


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(one) for one in container.demux(audio=0) if one.size]


@pytest.mark.parametrize("form", ["mov", "webm"], ids=["copied", "encoded again"])
def test_a_part_has_all_tracks_to_its_end(tmp_path: Path, form: str) -> None:
    clip = tmp_path / "clip.mkv"
    write_clip(clip, frames(50, 48, 64), container="matroska", sound=["aac", "aac"])
    ends: dict[int, float] = {}
    with clip.open("rb") as file, av.open(str(tmp_path / f"out.{form}"), "w") as output:
        sound = Sound(file, output, FORMS[form], Limits(), Span(0.0, 1.0))
        source = list(sound._source.demux(audio=(0, 1)))
        sound._packets = iter(sorted(source, key=lambda one: one.stream.index))  # as in a file with one chunk per track
        for packet in sound.packets(float("inf")):
            at_s = float((packet.pts + packet.duration) * packet.time_base)
            ends[packet.stream.index] = max(ends.get(packet.stream.index, 0.0), at_s)
        sound.close()
    assert ends == {0: pytest.approx(1.0, abs=0.05), 1: pytest.approx(1.0, abs=0.05)}


@pytest.mark.parametrize(
    ("codec", "layout", "form", "made"),
    [
        ("ac3", "5.1(side)", "webm", "5.1"),
        ("eac3", "5.1(side)", "webm", "5.1"),
        ("pcm_s16le", "4.0", "webm", "quad"),
        ("pcm_s16le", "2.1", "mp4", "stereo"),
        ("pcm_s16le", "7.1(wide)", "webm", "7.1"),
        ("pcm_s16le", "hexadecagonal", "webm", "7.1"),
        ("flac", "quad", "webm", "quad"),
        ("flac", "3.0", "mov", "3.0"),
    ],
)
def test_surround_sound_keeps_its_channels(tmp_path: Path, codec: str, layout: str, form: str, made: str) -> None:
    clip = write_clip(tmp_path / "clip", PICTURES, container="matroska", sound=[codec], layout=layout)
    assert [one.layout for one in tracks_of(converted(clip, form))] == [made]


@pytest.mark.parametrize(("rate", "made"), [(192_000, 96_000), (11_000, 11_025)])
def test_a_rate_that_the_encoder_does_not_take_is_changed(tmp_path: Path, rate: int, made: int) -> None:
    clip = write_clip(tmp_path / "clip", PICTURES, container="matroska", sound=["flac"], sample_rate=rate)
    assert [(one.codec, one.rate) for one in tracks_of(converted(clip, "mov"))] == [("aac", made)]


@pytest.mark.parametrize(
    ("codec", "name", "form"),
    [
        *(("libmp3lame", "mp3", "mp4"), ("libmp3lame", "mp3", "mov"), ("libopus", "opus", "mp4"), ("flac", "flac", "mp4")),
        *(("libopus", "opus", "webm"), ("ac3", "ac3", "mov")),
    ],
)
def test_packets_are_copied_where_the_container_takes_them(tmp_path: Path, codec: str, name: str, form: str) -> None:
    clip = write_clip(tmp_path / "clip", PICTURES, container="matroska", sound=[codec])
    made = converted(clip, form)
    assert [one.codec for one in tracks_of(made)] == [name]
    assert packets_of(made) == packets_of(clip)
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        assert reader.facts.sound == (name,)


@pytest.mark.parametrize("form", ["webm", "mov", "mp4"])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_tracks_keep_languages_titles_and_the_default(tmp_path: Path, container: str, form: str) -> None:
    spoken = ["eng", "fra", "slv"]
    clip = write_clip(tmp_path / "clip", PICTURES, container=container, sound=["aac"] * 3, languages=spoken)
    found = tracks_of(converted(clip, form))
    assert [one.told.get("title") or one.told.get("name") for one in found] == [f"in {one}" for one in spoken]
    assert [one.told["language"] for one in found][: 2 if form == "mov" else 3] == spoken[: 2 if form == "mov" else 3]
    assert [one.default for one in found] == [False, True, False]


def test_a_track_may_change_from_stereo_to_surround(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", PICTURES, container="matroska", sound=["pcm_s16le"])
    with clip.open("rb") as file, av.open(str(tmp_path / "out.webm"), "w") as output:
        sound = Sound(file, output, FORMS["webm"], Limits())
        made = 0
        for number, layout in enumerate(("stereo", "5.1(side)", "mono")):
            channels = av.AudioLayout(layout).nb_channels
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960 * channels), np.int16), format="s16", layout=layout)
            frame.sample_rate, frame.pts = 48_000, 960 * number
            made += sum(one.samples for one in sound._resampled(1, frame))
        sound.close()
    assert made == 3 * 960


@pytest.mark.parametrize("form", ["mov", "webm", "mp4"])
def test_a_track_without_packets_does_not_cost_the_video(tmp_path: Path, form: str) -> None:
    clip, broken = write_clip(tmp_path / "clip", PICTURES, container="matroska", sound=["aac"] * 2), tmp_path / "broken.mkv"
    with av.open(str(clip)) as source, av.open(str(broken), "w") as output:
        streams = [output.add_stream_from_template(one) for one in source.streams]
        for packet in source.demux():
            if packet.size and packet.stream is not source.streams.audio[1]:
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    assert len(tracks_of(broken)) == 2
    target = converted(broken, form)
    assert len(tracks_of(target)) == (2 if form == "webm" else 1)
    assert packets_of(target)


def test_what_an_encoder_refuses_is_said(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", PICTURES, container="matroska", sound=["flac"], layout="5.1")
    with clip.open("rb") as file, av.open(str(tmp_path / "out.webm"), "w") as output:
        sound = Sound(file, output, FORMS["webm"], Limits())
        sound._encoded[1].codec_context.layout = "5.1(side)"
        with pytest.raises(WriteError, match=r"the sound of this video can't be encoded as opus: Invalid argument"):
            list(sound.packets(float("inf")))
        sound.close()
