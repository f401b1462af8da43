"""A folder of pictures appears when it is whole, and was read back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import WriteError
from pipeline.storage.files import Files
from pipeline.types import Size
from pipeline.video.pictures import PictureWriter
from pipeline.video.reader import Facts

FACTS = Facts(Size(9, 12), Fraction(1, 25), Fraction(25))


def frame(number: int, channels: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (9, 12, channels), np.uint8)


@pytest.mark.parametrize(("channels", "grey", "mode"), [(4, False, "RGBA"), (3, False, "RGB"), (3, True, "L")])
def test_the_folder_appears_when_it_is_whole(tmp_path: Path, channels: int, grey: bool, mode: str) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    with PictureWriter(str(folder), FACTS, Files(), grey=grey) as writer:
        for number in range(3):
            writer.add(frame(number, channels), number)
        assert list(folder.iterdir()) == []
        assert all(one.name.startswith(".clip.") for one in tmp_path.iterdir() if one != folder)
        writer.finish()
    assert [one.name for one in tmp_path.iterdir()] == ["clip"]
    assert (folder / "timestamps.txt").read_text().splitlines()[1:] == ["0.000", "40.000", "80.000"]
    with Image.open(folder / "000001.png") as image:
        assert image.mode == mode
        wanted = frame(1, channels)
        assert np.array_equal(np.asarray(image), wanted[..., 0] if grey else wanted)


@pytest.mark.parametrize("damage", ["other", "damaged", "missing"])
def test_a_picture_that_differs_is_found_and_nothing_is_left(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "clip"
    with (
        pytest.raises(WriteError, match=r"frame 1 of the written pictures (differs|can't be read back)"),
        PictureWriter(str(folder), FACTS, Files()) as writer,
    ):
        for number in range(2):
            writer.add(frame(number, 4), number)
        part = next(tmp_path.iterdir())
        second = part / "000001.png"
        if damage == "other":
            second.write_bytes((part / "000000.png").read_bytes())
        elif damage == "damaged":
            second.write_bytes(second.read_bytes()[:60])
        else:
            second.unlink()
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_filled_meanwhile_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    with (
        pytest.raises(WriteError, match="can't be written: Directory not empty; give a new folder"),
        PictureWriter(str(folder), FACTS, Files()) as writer,
    ):
        writer.add(frame(0, 4), 0)
        folder.mkdir()
        (folder / "mine").touch()
        writer.finish()
    assert [one.name for one in folder.iterdir()] == ["mine"] and len(list(tmp_path.iterdir())) == 1
