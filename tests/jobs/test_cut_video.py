"""``matteline cut`` with videos: what is written, and what is refused."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from jobs.main import app
from pipeline.config.job import Limits
from pipeline.errors import ConfigError, DecodeError, FetchError, PromptError, WriteError
from pipeline.log import log
from pipeline.models.detectors.detector import Detection
from pipeline.models.detectors.finder import Finder
from pipeline.segmenter import Segmenter
from pipeline.types import Box
from pipeline.video.draw import Draw
from pipeline.video.reader import VideoReader

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "video"))
from clips import frames, write_clip

Cut = Callable[..., int]


@pytest.fixture
def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_preset: str) -> Cut:
    """``cut(*arguments)`` runs the command beside ``clip.mp4``, and returns its exit code."""
    write_clip(tmp_path / "clip.mp4", frames(6, 48, 64), sound=["aac"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(log, "handlers", list[logging.Handler]())  # the command replaces them
    return lambda *arguments: app(["cut", "-p", fake_preset, *arguments], standalone_mode=False) or 0


def test_videos_go_to_a_folder_and_one_that_fails_does_not_keep_the_others(
    cut: Cut, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cut off.mp4").write_bytes(Path("clip.mp4").read_bytes()[:900])
    assert cut("cut off.mp4", "clip.mp4", "-o", "out/") == 1
    said = capsys.readouterr()
    assert "out/clip.webm: 6 frames, 0.24 s, 64 x 48, quality" in said.out
    assert "error: cut off.mp4: this file is damaged or cut off" in said.err and "1 of 2 videos failed" in said.err
    assert [path.name for path in Path("out").iterdir()] == ["clip.webm"], "nothing temporary is left"
    with av.open("out/clip.webm") as made:
        assert made.streams.video[0].metadata["alpha_mode"] == "1" and len(made.streams.audio) == 1


def test_pictures_have_a_file_of_their_times_and_the_object(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut("clip.mp4", "--format", "png", "-o", "pictures/") == 0
    assert "a folder of pictures has no sound" in capsys.readouterr().out
    folder = Path("pictures/clip")
    lines = (folder / "timestamps.txt").read_text().splitlines()
    assert lines == ["# timestamp format v2", "0.000", "40.000", "80.000", "120.000", "160.000", "200.000"]
    assert sorted(path.name for path in folder.iterdir()) == [*(f"{number:06}.png" for number in range(6)), "timestamps.txt"]
    cutout = np.asarray(Image.open(folder / "000000.png"))
    assert cutout.shape == (48, 64, 4) and cutout[24, 19, 3] > 200 and cutout[2, 60, 3] < 20
    with pytest.raises(WriteError, match="is not empty; give a new folder"):
        cut("clip.mp4", "--format", "png", "-o", "pictures/")


def test_an_animation_that_becomes_a_picture_is_said(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = [Image.fromarray(one) for one in frames(3, 48, 64)]
    first.save("still.gif")
    for name in ("moving.gif", "moving.webp"):
        first.save(name, save_all=True, append_images=others, duration=100)
        assert cut(name, "-o", "out/") == 0
        assert f"{name}: only the first frame of this animation is cut out" in " ".join(capsys.readouterr().err.split())
        assert Image.open("out/moving.png").size == (64, 48)
    assert cut("still.gif", "-o", "out/") == 0
    assert "animation" not in capsys.readouterr().err


def test_an_animation_becomes_a_video_over_a_colour(cut: Cut) -> None:
    pictures = [Image.fromarray(one) for one in frames(4, 48, 64)]
    pictures[0].save("moving.webp", save_all=True, append_images=pictures[1:], duration=[40, 80, 40, 120], lossless=True)
    assert cut("moving.webp", "-o", "moving.mp4", "--background", "#00ff00") == 0
    with av.open("moving.mp4") as made:
        found = list(made.decode(video=0))
    assert [round(float(one.time or 0) * 1000) for one in found] == [0, 40, 120, 160]
    corner = found[1].to_ndarray(format="rgb24")[:8, -8:].mean((0, 1))
    assert corner[1] > 200 and max(corner[0], corner[2]) < 60, "green"


@pytest.fixture
def finds_the_disc(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A detector that finds what is dark. Returns the names that it looked for."""
    looked = list[tuple[str, ...]]()

    def one_each(_: Finder, images: list[np.ndarray], names: list[tuple[str, ...]]) -> list[Detection | PromptError]:
        looked.extend(names)
        rows, columns = np.nonzero(images[0].max(axis=2) < 100)
        if not len(rows):
            return [PromptError("no 'cup' was found")]
        return [Detection(Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), "cup", 0.8)]

    monkeypatch.setattr(Finder, "one_each", one_each)
    return looked


def test_an_object_is_found_by_its_name_after_the_video_fades_in(
    cut: Cut, capsys: pytest.CaptureFixture[str], finds_the_disc: list[tuple[str, ...]]
) -> None:
    ground = np.full((48, 64, 3), (210, 190, 170), np.uint8)
    write_clip(Path("clip.mp4"), [*[ground] * 14, *frames(30, 48, 64)[14:]], sound=["aac"])
    assert cut("clip.mp4", "-o", "out/", "--format", "png", "--label", "cup", "--label", "bottle") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "30 frames, 1.20 s" in said and "(the object is found at 1.00 s; nothing is cut out before; a folder" in said
    alphas = [np.asarray(Image.open(f"out/clip/{number:06}.png"))[..., 3] for number in range(30)]
    assert [bool(one.max() > 128) for one in alphas] == [False] * 25 + [True] * 5
    assert finds_the_disc == [("cup", "bottle")] * 3
    with pytest.raises(PromptError, match=r"clip\.mp4: in the first 5 s of the video: no 'cup' was found"):
        cut("clip.mp4", "-o", "x.webm", "--label", "cup", "--end", "0.5")
    assert cut("clip.mp4", "-o", "y.webm", "--label", "auto") == 0 and len(finds_the_disc) == 4, "auto needs no detector"


def test_a_part_of_a_video(cut: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    assert cut("clip.mp4", "-o", "part.mov", "--start", "0.08", "--end", "0.2") == 0
    assert "part.mov: 3 frames, 0.12 s" in capsys.readouterr().out
    with av.open("part.mov") as made:
        assert [round(float(one.time or 0), 2) for one in made.decode(video=0)] == [0.0, 0.04, 0.08]
    with av.open("part.mov") as made:
        assert max(float(one.pts * one.time_base) for one in made.demux(audio=0) if one.pts is not None) < 0.12


@pytest.mark.parametrize("option", ["--background=sea.png", "--set=recipe.video_background=sea.png"])
def test_a_picture_is_behind_the_object(cut: Cut, option: str) -> None:
    Image.new("RGB", (30, 50), (20, 60, 220)).save("sea.png")
    assert cut("clip.mp4", "-o", "over.mp4", option) == 0
    with av.open("over.mp4") as made:
        found = [one.to_ndarray(format="rgb24") for one in made.decode(video=0)]
        assert len(found) == 6 and len(made.streams.audio) == 1
    for one in found:
        assert np.abs(one[:8].astype(int) - (20, 60, 220)).mean() < 8 and one[24, 24].max() < 90, "the sea, and the disc"


def test_the_documented_command_gives_what_segment_video_of_ben2_gives(
    cut: Cut, fake_preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every frame alone, stretched, with its own colours over green; the last frame shows nothing and flashes."""
    pictures = [*frames(4, 48, 64), np.full((48, 64, 3), (210, 190, 170), np.uint8)]
    pictures[4][20:24, 30:34] -= 4  # so little that only the stretch makes an object of it
    write_clip(Path("clip.mp4"), pictures, sound=["aac"])
    with Path("clip.mp4").open("rb") as file, VideoReader(file, Limits()) as reader:
        pictures = [one.pixels for one in reader]
    page = (Path(__file__).parents[2] / "pipeline/video/README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^matteline cut .*-p ben2-base.*(?:\n .*)*", page, re.M)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:4] == ["matteline", "cut", "clip.mp4", "-o"] and words[5:7] == ["-p", "ben2-base"]
    drawn, draw = list[np.ndarray](), Draw.__call__
    monkeypatch.setattr(Draw, "__call__", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    assert cut("clip.mp4", "-o", words[4], *words[7:], "--set", "recipe.frame_px=32") == 0
    recipe = {"frame_px": 32, "stretch": True, "refiner": "none", "foreground": "none"}
    segmenter = Segmenter(fake_preset, **recipe)
    with av.open(words[4]) as made:
        found = [one.to_ndarray(format="rgb24").astype(float) for one in made.decode(video=0)]
        assert len(found) == 5 and len(made.streams.audio) == 1
    for shown, one, picture in zip(found, drawn, pictures, strict=True):
        alpha = segmenter(picture).mask[..., None] / 255
        assert (alpha.min(), alpha.max()) == (0, 1), "stretched"
        assert np.abs(one - (picture * alpha + np.array([0, 255, 0]) * (1 - alpha))).max() <= 0.5
        assert np.abs(shown - one).mean() < 6


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            ("clip.mp4", "-o", "x.mp4", "--background", "red"),
            ConfigError,
            "--background cannot be used: red: .* does not exist.* or give a colour",
        ),
        (("clip.mp4", "-o", "x.mp4", "--background", "clip.mp4"), ConfigError, "--background cannot be used: clip.mp4"),
        (("clip.mp4", "-o", "x.mp4", "--background", "#12"), ConfigError, "'#12' is not a colour"),
        (("clip.mp4", "-o", "x.avi"), ConfigError, "must end in .webm, .mov or .mp4 for a video"),
        (("clip.mp4", "--format", "gif"), ConfigError, "choose webm, mov, mp4, png"),
        (("clip.mp4", "-o", "x.webm", "--format", "mov"), ConfigError, "name different formats"),
        (("clip.mp4", "photo.jpg"), ConfigError, "pictures and videos are given together"),
        (("clip.mp4", "-o", "-"), ConfigError, "give paths instead of -"),
        (("clip.mp4", "-o", "clip.mp4"), ConfigError, "choose another name"),
        (("clip.mp4", "other.mp4", "-o", "x.webm"), ConfigError, "is one file, but there are 2 videos"),
        (("clip.mp4", "--mask", "x.png"), ConfigError, "--mask is for pictures"),
        (("clip.mp4", "--start", "2", "--end", "1"), ConfigError, "--end is 1 and --start is 2; --end must be above --start"),
        (("clip.mp4", "--start=-1"), ConfigError, "--start is '-1.0'; give seconds"),
        (("photo.jpg", "--end", "1"), ConfigError, "--end is for videos"),
        (("clip.mp4", "--start", "9", "-o", "x.webm"), DecodeError, "clip.mp4: no frame is between start_s=9"),
        (("clip.mp4", "--label", "cup", "--box", "1,1,9,9"), ConfigError, "remove --box or --label"),
        (("clip.mp4", "--rendition", "white"), ConfigError, "--rendition is for pictures"),
        (("missing.mp4", "-o", "x.webm"), FetchError, "missing.mp4: it does not exist"),
        (("photo.mp4", "-o", "x.webm"), DecodeError, r"photo.mp4: this is a picture \(JPEG\), not a video"),
        (("clip.mp4", "-o", "x.webm", "--set", "limits.max_pixels=99"), DecodeError, "clip.mp4: frames have 64 x 48 pixels"),
    ],
)
def test_what_is_refused(cut: Cut, arguments: tuple[str, ...], error: type[Exception], words: str) -> None:
    Image.new("RGB", (8, 8)).save("photo.mp4", "JPEG")
    before = sorted(Path().iterdir())
    with pytest.raises(error, match=words):
        cut(*arguments)
    assert sorted(Path().iterdir()) == before


def test_without_pyav_a_sentence_says_what_to_install(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.video.extra.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'matteline\[video\]'"):
        cut("clip.mp4")
