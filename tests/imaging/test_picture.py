from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from valid_images import saved

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode
from pipeline.imaging.picture import is_several, upright_rgb


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_pil_image_equals_its_decoded_file(orientation: int, mode: str) -> None:
    """An opened PIL image has its EXIF orientation, which must be applied as in a run."""
    rng = np.random.default_rng(orientation)
    image = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8)).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (6, 9), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, "PNG", exif=exif)
    assert np.array_equal(upright_rgb(Image.open(io.BytesIO(data))), decode(data, Limits()))


def test_arrays_are_pictures() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(upright_rgb(grey), np.dstack([grey] * 3))
    assert np.array_equal(upright_rgb(grey[..., None]), np.dstack([grey] * 3))
    rgba = np.zeros((2, 2, 4), np.uint8)
    assert (upright_rgb(rgba) == 255).all(), "transparency is composited over white"
    strided = np.zeros((4, 4, 3), np.uint8)[::2, ::2]
    assert upright_rgb(strided).flags.c_contiguous


def test_paths_bytes_files_and_tensors_are_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    data = saved(pixels, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    taken = [str(tmp_path / "a.png"), tmp_path / "a.png", data, bytearray(data), memoryview(data), io.BytesIO(data)]
    taken += [pixels / 255.0, torch.from_numpy(pixels)]
    for picture in taken:
        assert np.array_equal(upright_rgb(picture), pixels), type(picture)
        assert not is_several(picture)
    with (tmp_path / "a.png").open("rb") as file:
        assert np.array_equal(upright_rgb(file), pixels)
    assert upright_rgb(np.eye(3, dtype=np.bool_))[0, 0].tolist() == [255, 255, 255]
    assert is_several([pixels]) and is_several((pixels, data)) and is_several(one for one in [pixels])


@pytest.mark.parametrize("thing", [None, 7, {"a": 1}, io.StringIO("x"), object()])
def test_anything_else_is_a_type_error_that_says_what_is_taken(thing: Any) -> None:
    with pytest.raises(TypeError, match="is not a picture; give a path, bytes, a binary file, a PIL image, an array"):
        upright_rgb(thing)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 40, 50), np.uint8), "move the channels to the end"),
        (np.zeros((2, 4, 5, 3), np.uint8), "give a list of pictures for several"),
        (np.zeros((4, 5, 2), np.uint8), r"shape \(4, 5, 2\) is not a picture"),
        (np.full((4, 5), 300.0), "float64 from 300 to 300 is unknown"),
        (np.zeros((4, 5), np.uint16), "uint16 from 0 to 0 is unknown"),
        (np.zeros((0, 5), np.uint8), "is not a picture"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        upright_rgb(array)


@pytest.mark.parametrize(
    ("path", "said"), [("gone.jpg", "No such file"), ("https://h/a.jpg", "give its bytes"), ("a\0b", "null")]
)
def test_files_that_cannot_be_read(path: str, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        upright_rgb(path)
