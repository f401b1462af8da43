"""What is written has the frames, times, size, sound and alpha of what was read.

The clip: 321 x 241, variable rate, rotated, with two sound tracks.
"""

from __future__ import annotations

import gc
import io
import struct
import zipfile
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import frames, variable_times, write_clip
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError, WriteError
from pipeline.video import targets as targets_module
from pipeline.video.archive import ArchiveWriter, check_archive
from pipeline.video.check import check_written
from pipeline.video.colour import Converter
from pipeline.video.container import decoded
from pipeline.video.draw import Draw
from pipeline.video.forms import FORMS, MOV, MP4, WEBM, Form
from pipeline.video.reader import Frame, VideoReader
from pipeline.video.sound import Track
from pipeline.video.steady import MaskedFrame
from pipeline.video.targets import Target, write_targets
from pipeline.video.writer import VideoWriter, Written

COUNT = 16
ALPHA_ERROR = {"webm": 2.0, "mov": 1.0}


def mask_of(number: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height * (0.3 + 0.02 * number), x - width / 2)
    return np.rint(np.clip((height / 5 - distance) / 8 + 0.5, 0, 1) * 255).astype(np.uint8)


def read(path: Path) -> tuple[VideoReader, list[Frame]]:
    with path.open("rb") as file, VideoReader(file, Limits()) as reader:
        return reader, list(reader)


def read_back(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        converter = Converter()
        return [converter.to_rgba(one) for one in decoded(container, stream)]


def written_as(source: Path, target: Path, form: Form, look: Any = "cutout") -> Written:
    draw = Draw(look)
    with ExitStack() as stack:
        file, again = (stack.enter_context(source.open("rb")) for _ in range(2))
        reader = stack.enter_context(VideoReader(file, Limits()))
        sound = again if reader.facts.sound else None
        writer = stack.enter_context(VideoWriter(target, form, reader.facts, clear=draw.clear, sound=sound, limits=Limits()))
        for number, frame in enumerate(reader):
            writer.add(draw(frame.pixels, mask_of(number, *frame.pixels.shape[:2])), frame.pts, frame.duration)
        return writer.finish()


def convert(source: Path, target: Path, form: Form, look: Any = "cutout") -> None:
    check_written(target, written_as(source, target, form, look))


def sound_of(path: Path) -> list[tuple[str, np.ndarray]]:
    tracks = []
    for track in range(2):
        with av.open(str(path)) as container:
            heard = [one.to_ndarray() for one in container.decode(audio=track)]
            tracks.append(
                (container.streams.audio[track].codec_context.name, np.concatenate([np.atleast_2d(x) for x in heard], 1))
            )
    return tracks


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, frames(COUNT), times_ms=variable_times(COUNT), rotation=90, sound=["aac", "aac"])


def test_a_rotated_clip_is_read_upright_at_its_own_times(clip: Path) -> None:
    reader, found = read(clip)
    assert reader.facts.size == (321, 241), "height, width: a quarter turn of 321 x 241"
    assert reader.facts.sound == ("aac", "aac")
    assert [round(float(one.pts * reader.facts.time_base * 1000)) for one in found] == variable_times(COUNT)
    wanted = np.rot90(frames(COUNT)[3]).astype(int)
    assert np.abs(found[3].pixels - wanted).mean() < 4


@pytest.mark.parametrize("form", ["webm", "mov", "mp4"])
def test_every_form_has_the_frames_gaps_size_and_sound_of_the_source(clip: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"out.{form}"
    convert(clip, target, FORMS[form], "filled" if form == "mp4" else "cutout")
    reader, found = read(target)
    times = [float(one.pts * reader.facts.time_base) * 1000 for one in found]
    assert np.abs(np.array(times) - variable_times(COUNT)).max() < 1
    assert reader.facts.size == ((322, 242) if form == "mp4" else (321, 241)), "H.264 needs even sides"
    before, after = sound_of(clip), sound_of(target)
    assert [name for name, _ in after] == [("opus" if form == "webm" else "aac")] * 2
    for (_, old), (_, new) in zip(before, after, strict=True):
        assert abs(old.shape[1] - new.shape[1]) <= 1024, "one packet"
        if form != "webm":
            assert np.array_equal(old, new), "copied"
    if form in ALPHA_ERROR:
        back = read_back(target)
        masks = [mask_of(number, 321, 241) for number in range(COUNT)]
        errors = [np.abs(one[..., 3].astype(int) - mask).mean() for one, mask in zip(back, masks, strict=True)]
        assert max(errors) <= ALPHA_ERROR[form]
        solid = masks[3] == 255
        wanted = np.rot90(frames(COUNT)[3]).astype(int)
        assert np.abs(back[3][solid][:, :3] - wanted[solid]).mean() < 4, "colours of the object"


def test_opus_of_a_sine_is_that_sine(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.webm"
    convert(clip, target, WEBM)
    for (_, heard), hertz in zip(sound_of(target), (440, 660), strict=True):
        spectrum = np.abs(np.fft.rfft(heard[0][4800:24_000]))
        assert abs(np.argmax(spectrum) * 48_000 / 19_200 - hertz) < 5


def test_the_grey_matte_is_the_mask(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "matte.mp4"
    convert(clip, target, MP4, "mask")
    for number, one in enumerate(read_back(target)):
        assert np.abs(one[:321, :241, 0].astype(int) - mask_of(number, 321, 241)).mean() < 2


@pytest.mark.parametrize("form", ["webm", "mov", "mp4"])
def test_the_matte_has_the_frames_gaps_size_and_sound_of_the_source(clip: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / f"matte.{form}"
    convert(clip, target, FORMS[form], "mask")
    reader, found = read(target)
    times = [float(one.pts * reader.facts.time_base) * 1000 for one in found]
    assert np.abs(np.array(times) - variable_times(COUNT)).max() < 1
    assert reader.facts.size == ((322, 242) if form == "mp4" else (321, 241)) and len(reader.facts.sound) == 2
    for number, one in enumerate(found):
        assert np.abs(one.pixels[:321, :241, 0].astype(int) - mask_of(number, 321, 241)).mean() < 2


def test_pictures_have_the_frames_gaps_size_and_alpha_of_the_source(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.zip"
    draw = Draw("cutout")
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader, ArchiveWriter(target, reader.facts) as writer:
        for number, frame in enumerate(reader):
            writer.add(draw(frame.pixels, mask_of(number, 321, 241)), frame.pts, frame.duration)
        check_archive(target, writer.finish(), lambda: None)
    with zipfile.ZipFile(target) as archive:
        assert [float(line) for line in archive.read("timestamps.txt").splitlines()[1:]] == variable_times(COUNT)
        for number in range(COUNT):
            made = np.asarray(Image.open(archive.open(f"{number:06}.png")))
            assert made.shape == (321, 241, 4) and np.array_equal(made[..., 3], mask_of(number, 321, 241))


def test_nothing_of_the_background_is_left_in_transparent_pixels(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mov"
    convert(clip, target, MOV)
    back = read_back(target)[0]
    assert back[300:, :, :3].max() <= 2, "far from the object it is black; the background was light"


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames(3, 60, 80), aspect=Fraction(16, 11), rotation=90)
    assert read(clip)[0].facts.aspect == Fraction(11, 16), "turned"
    convert(clip, tmp_path / "out.mov", MOV)
    assert read(tmp_path / "out.mov")[0].facts.aspect == Fraction(11, 16)
    convert(clip, tmp_path / "out.webm", WEBM)
    assert read(tmp_path / "out.webm")[0].facts.size == (80, 41), "square pixels: 60 * 11 / 16"


def test_pixels_are_not_stretched_beyond_the_limits(tmp_path: Path) -> None:
    """A file may say that its pixels are 1080 times as wide as high."""
    clip = write_clip(tmp_path / "clip.mp4", frames(2, 60, 80), aspect=Fraction(16, 11))
    data = clip.read_bytes()
    for across, allowed, said in (
        (1080, 10**8, "86,400 x 60 pixels; webm allows 65,535 per side"),
        (20, 95_000, r"1,600 x 60 pixels; .* limits\.max_pixels 95,000; write MOV or MP4"),
    ):
        clip.write_bytes(data.replace(b"pasp" + struct.pack(">II", 16, 11), b"pasp" + struct.pack(">II", across, 1)))
        how: dict[str, Any] = {"clear": False, "sound": None, "limits": Limits(max_pixels=allowed)}
        with clip.open("rb") as file, VideoReader(file, how["limits"]) as reader:
            assert reader.facts.aspect == across
            with pytest.raises(DecodeError, match=said):
                VideoWriter(tmp_path / "out.webm", WEBM, reader.facts, **how)
    convert(clip, tmp_path / "out.mov", MOV)


@pytest.mark.usefixtures("no_collector")
def test_encoders_are_gone_before_the_files_are_read_back(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    living = list[int]()

    def counting(*_: Any) -> None:
        living.append(sum(isinstance(one, av.VideoCodecContext) and one.is_encoder for one in gc.get_objects()))

    counting()
    monkeypatch.setattr(targets_module, "check_written", counting)
    targets = [Target(tmp_path / f"out{form.suffix}", form, Draw("mask")) for form in (MP4, WEBM)]
    with clip.open("rb") as file, VideoReader(file, Limits()) as reader:
        masked = (MaskedFrame(one, np.zeros(one.pixels.shape[:2], np.uint8), 1.0) for one in reader)
        write_targets(masked, reader.facts, targets, lambda: io.BytesIO(clip.read_bytes()), Limits())
    assert living == [0, 0, 0]


@pytest.mark.parametrize("damage", ["count", "time", "alpha", "sound", "language", "codec"])
def test_a_file_that_differs_from_what_was_written_is_found(clip: Path, tmp_path: Path, damage: str) -> None:
    target = tmp_path / "out.webm"
    written = written_as(clip, target, WEBM)
    check_written(target, written)
    if damage == "count":
        written.seconds.append(9.0)
    if damage == "time":
        written.seconds[5] += 0.02
    if damage == "alpha":
        assert written.alpha is not None
        written.alpha[5] = 255.0
    if damage == "sound":
        written.tracks += written.tracks[:1]
    if damage == "language":
        written.tracks = (written.tracks[0], Track("opus", "fra"))
    if damage == "codec":
        written.tracks = (written.tracks[0], Track("aac", ""))
    words = {
        "count": "16 frames instead of 17",
        "time": "frame 5",
        "alpha": "mean alpha of",
        "sound": "2 sound tracks instead of 3",
        "language": "sound track 1 of the written video is in 'und' instead of 'fra'",
        "codec": "sound track 1 of the written video is opus instead of aac",
    }
    with pytest.raises(WriteError, match=words[damage]):
        check_written(target, written)
