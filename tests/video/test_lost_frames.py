"""Damage that FFmpeg passes over without an error fails the video."""

from __future__ import annotations

import io
import random
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import av
import pytest
from clips import frames, write_clip

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.video import matroska
from pipeline.video.matroska import check_structure
from pipeline.video.reader import VideoReader

COUNT = 30
CODECS = {
    "h264": ("mp4", "libx264", {"bf": "3", "g": "12"}),
    "vp9": ("webm", "libvpx-vp9", {"g": "12"}),
    "mpeg4": ("mp4", "mpeg4", {"g": "12"}),
    "av1": ("mp4", "libsvtav1", {"g": "12", "preset": "12"}),
}


def read(data: bytes) -> int:
    with VideoReader(io.BytesIO(data), Limits()) as reader:
        return sum(1 for _ in reader)


def clip_of(path: Path, codec: str) -> tuple[bytes, list[bytes]]:
    """Write a clip. Returns it and its packets of pictures."""
    container, encoder, options = CODECS[codec]
    write_clip(path, frames(COUNT, 64, 64), container=container, encoder=encoder, pixel_format="yuv420p", options=options)
    with av.open(str(path)) as source:
        return path.read_bytes(), [bytes(one) for one in source.demux(video=0) if one.size]


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_last_packet_fails_the_video(tmp_path: Path, codec: str) -> None:
    """PyAV returns the frames before it, and drops those after it together with the error."""
    data, packets = clip_of(tmp_path / "clip", codec)
    assert read(data) == COUNT
    with pytest.raises(DecodeError, match=r"this video is damaged at about 1\.1\d s"):
        read(data.replace(packets[-1], bytes(len(packets[-1]))))


def test_a_frame_that_the_decoder_of_av1_leaves_out_fails_the_video(tmp_path: Path) -> None:
    data, packets = clip_of(tmp_path / "clip", "av1")
    for number in (11, 20):
        with pytest.raises(DecodeError, match=r"this video is damaged at about \d\.\d\d s"):
            read(data.replace(packets[number], bytes(len(packets[number]))))


@pytest.mark.parametrize("live", ["0", "1"])
@pytest.mark.parametrize("container", ["matroska", "webm"])
def test_noise_in_matroska_costs_no_frame_without_an_error(tmp_path: Path, container: str, live: str) -> None:
    how: dict[str, Any] = {"encoder": "libvpx-vp9", "sound": ["libopus"]} if container == "webm" else {"sound": ["aac"]}
    how |= {"muxer": {"live": live, "cluster_time_limit": "300"}, "pixel_format": "yuv420p", "options": {"g": "5"}}
    clip = write_clip(tmp_path / "clip", frames(COUNT, 48, 64), container=container, **how)
    whole = clip.read_bytes()
    beats: list[int] = []
    check_structure(io.BytesIO(whole), lambda: beats.append(1))
    assert beats and read(whole) == COUNT
    noticed, unnoticed = 0, []
    for seed in range(40):
        rng, data = random.Random(seed), bytearray(whole)
        at, size = rng.randrange(300, len(data)), rng.choice([4, 40, 400])
        data[at : at + size] = rng.randbytes(min(size, len(data) - at))
        try:
            check_structure(io.BytesIO(data))
        except DecodeError as error:
            assert "and frames may be missing there" in str(error)
            noticed += 1
        else:
            with suppress(DecodeError):
                unnoticed += [seed] if read(bytes(data)) < COUNT else []
    assert not unnoticed and noticed >= 10


def test_other_files_and_those_that_are_cut_off_have_no_damage_in_their_structure(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip", frames(5, 48, 64), container="matroska").read_bytes()
    mp4 = write_clip(tmp_path / "clip.mp4", frames(5, 48, 64)).read_bytes()
    for data in (b"", b"\x1aE\xdf\xa3", b"no video", mp4, *(clip[:size] for size in range(4, len(clip), 97))):
        check_structure(io.BytesIO(data))


def test_hostile_structures_take_little_memory_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def element(number: int, content: bytes) -> bytes:
        return number.to_bytes(-(-number.bit_length() // 8), "big") + (1 << 56 | len(content)).to_bytes(8, "big") + content

    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.largest = max(self.largest, size or 0)
            return super().read(size)

    number = element(matroska.TRACK_NUMBER, bytes(1 << 20))
    file = Counting(
        element(matroska.EBML, b"") + element(matroska.SEGMENT, element(matroska.TRACKS, element(matroska.TRACK, number)))
    )
    with pytest.raises(DecodeError, match="damaged at byte"):
        check_structure(file)
    assert file.largest <= matroska.MAX_SIZE

    monkeypatch.setattr(matroska, "MAX_ELEMENTS", 100)
    for count, refused in (50, False), (200, True):
        data = element(matroska.EBML, b"") + element(matroska.SEGMENT, element(matroska.VOID, b"") * count)
        with pytest.raises(DecodeError) if refused else nullcontext():
            check_structure(io.BytesIO(data))
