"""A part of the sound: every track to its end, however the file stores them."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from clips import frames, write_clip

from pipeline.video.forms import FORMS
from pipeline.video.sound import Sound
from pipeline.video.span import Span


@pytest.mark.parametrize("form", ["mov", "webm"], ids=["copied", "encoded again"])
def test_a_part_has_all_tracks_to_its_end(tmp_path: Path, form: str) -> None:
    clip = tmp_path / "clip.mkv"
    write_clip(clip, frames(50, 48, 64), container="matroska", sound=["aac", "aac"])
    ends: dict[int, float] = {}
    with clip.open("rb") as file, av.open(str(tmp_path / f"out.{form}"), "w") as output:
        sound = Sound(file, output, FORMS[form], Span(0.0, 1.0))
        source = list(sound._source.demux(audio=(0, 1)))
        sound._packets = iter(sorted(source, key=lambda one: one.stream.index))  # as in a file with one chunk per track
        for packet in sound.packets(float("inf")):
            at_s = float((packet.pts + packet.duration) * packet.time_base)
            ends[packet.stream.index] = max(ends.get(packet.stream.index, 0.0), at_s)
        sound.close()
    assert ends == {0: pytest.approx(1.0, abs=0.05), 1: pytest.approx(1.0, abs=0.05)}
