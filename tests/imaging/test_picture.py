from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
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
    taken += [pixels / 255.0, np.float32(pixels / 255.0), torch.from_numpy(pixels), np.asfortranarray(pixels)]
    for picture in taken:
        assert np.array_equal(upright_rgb(picture), pixels), type(picture)
        assert not is_several(picture)
    with (tmp_path / "a.png").open("rb") as file:
        assert np.array_equal(upright_rgb(file), pixels)
    assert upright_rgb(np.eye(3, dtype=np.bool_))[0, 0].tolist() == [255, 255, 255]
    assert is_several([pixels]) and is_several((pixels, data)) and is_several(one for one in [pixels])
    assert not is_several({"image": pixels}), "a row of a data set is no list of pictures"


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
    with pytest.raises(TypeError, match=said):
        upright_rgb(array)


MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBX", "La", "RGBa", "I;16", "F")


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_of_any_mode_shows_the_same_colours(mode: str) -> None:
    colours = np.array([[(255, 0, 0), (0, 0, 255)], [(0, 0, 0), (255, 255, 255)]], np.uint8).repeat(4, 0).repeat(4, 1)
    image = Image.fromarray(colours)
    grey = np.asarray(image.convert("L"))
    if mode in {"1", "L", "LA", "La", "I;16", "F"}:
        colours = np.dstack([np.where(grey > 127, 255, 0).astype(np.uint8) if mode == "1" else grey] * 3)
    image = {
        "I;16": lambda: Image.fromarray(grey.astype(np.uint16) * 257),
        "F": lambda: Image.fromarray(grey.astype(np.float32) / 255),
        "LAB": lambda: ImageCms.profileToProfile(image, _profile("sRGB"), _profile("LAB"), outputMode="LAB"),
        "1": lambda: image.convert("1", dither=Image.Dither.NONE),
        **{to: lambda by=by, to=to: image.convert(by).convert(to) for by, to in (("LA", "La"), ("RGBA", "RGBa"), ("P", "PA"))},
    }.get(mode, lambda: image.convert(mode))()
    assert image.mode == mode
    found = upright_rgb(image)
    assert found.shape == (8, 8, 3) and found.flags.c_contiguous
    assert np.abs(found.astype(int) - colours).max() <= {"LAB": 24, "YCbCr": 2}.get(mode, 0)


def _profile(name: Literal["sRGB", "LAB"]) -> ImageCms.core.CmsProfile:
    return ImageCms.createProfile(name)


def test_floats_that_overshoot_a_little_are_clipped() -> None:
    row = np.array([[-0.0009, 0.5, 1.0000002, 1.0009]], np.float32)
    assert upright_rgb(row)[0, :, 0].tolist() == [0, 128, 255, 255]
    for wrong in (1.01, -0.01, np.nan, np.inf):
        with pytest.raises(TypeError, match="is unknown"):
            upright_rgb(np.array([[0.5, wrong]]))


def test_tensors_of_a_network_are_pictures() -> None:
    assert upright_rgb(torch.full((2, 2), 1.0, requires_grad=True)).min() == 255  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a Tensor cannot be read as an array .*; give a path"):
        upright_rgb(torch.zeros((2, 2), dtype=torch.bfloat16))  # type: ignore[arg-type]


def test_a_picture_of_datasets_that_is_not_decoded(tmp_path: Path) -> None:
    pixels = np.full((3, 4, 3), 90, np.uint8)
    data = saved(pixels, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for row in ({"bytes": data, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": data}):
        assert np.array_equal(upright_rgb(row), pixels) and not is_several(row)


def test_what_has_nothing_to_read_says_so() -> None:
    file = io.BytesIO(saved(np.zeros((2, 2, 3), np.uint8), "PNG"))
    upright_rgb(file)
    with pytest.raises(DecodeError, match=r"at its end; go to its start with seek\(0\)"):
        upright_rgb(file)
    with pytest.raises(DecodeError, match="the path of the picture is empty"):
        upright_rgb("")


def test_a_pil_image_of_mode_i_has_16_bits_if_its_values_say_so() -> None:
    levels = np.array([[0, 32_896, 65_535]], np.int32)
    assert upright_rgb(Image.fromarray(levels))[0, :, 0].tolist() == [0, 128, 255]


def test_pil_images_without_a_known_white_or_without_pixels() -> None:
    for level in (0, 200, 70_000, -1):
        with pytest.raises(TypeError, match=f"mode I has no known white; convert it to mode L or I;16.* {level} to {level}"):
            upright_rgb(Image.new("I", (4, 4), level))
    with pytest.raises(TypeError, match="from 300 to 300 is unknown"):
        upright_rgb(Image.new("F", (4, 4), 300))
    with pytest.raises(DecodeError, match="0 x 4 pixels has nothing to cut out"):
        upright_rgb(Image.new("RGB", (0, 4)))


def test_the_bundled_photos_have_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert upright_rgb("examples/espresso.jpg").shape == (400, 600, 3)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.jpg", "gone.jpg cannot be read .No such file"),
        ("https://h/a.jpg", "https://h/a.jpg cannot be read .*give its bytes"),
        ("a\0b", "null"),
        (Path(__file__).parent, "imaging is a folder; give a list of its files, or use pipeline.run"),
    ],
)
def test_files_that_cannot_be_read(path: str | Path, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        upright_rgb(path)
