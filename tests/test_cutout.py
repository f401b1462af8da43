"""What a user does with a result: arrays, a PIL image, files by suffix, a notebook's preview, one line of text."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import Cutout
from pipeline.config.presets import load_preset
from pipeline.errors import ConfigError
from pipeline.quality.score import Score

RED, GREEN = (200, 40, 40), (30, 160, 60)


def made(height: int = 60, width: int = 80, reasons: tuple[str, ...] = ()) -> Cutout:
    """A red rectangle with a soft edge on a green ground."""
    picture, mask = np.full((height, width, 3), GREEN, np.uint8), np.zeros((height, width), np.uint8)
    rows, columns = slice(height // 4, height // 2), slice(width // 4, width // 2)
    picture[rows, columns] = RED
    mask[rows, columns] = 255
    mask[height // 4, columns] = 100
    return Cutout(picture, mask, Score(0.41, False, reasons, {}), load_preset("u2netp").recipe)


def test_arrays_and_a_pil_image() -> None:
    result = made()
    assert result.mask is result.alpha and result.mask.shape == (60, 80)
    assert result.cutout.shape == (60, 80, 4) and result.cutout.dtype == np.uint8
    assert np.array_equal(result.cutout[..., 3], result.mask)
    assert tuple(result.cutout[25, 30]) == (*RED, 255)
    assert result.image.mode == "RGBA" and np.array_equal(np.asarray(result.image), result.cutout)
    mask, cutout = result
    assert mask is result.mask and cutout is result.cutout


def test_the_text_is_one_line_with_size_and_quality() -> None:
    assert repr(made()) == "<Cutout 80 x 60, quality 0.41>"
    assert f"{made(reasons=('stray', 'gaps'))}" == "<Cutout 80 x 60, quality 0.41 (stray, gaps)>"


def test_a_notebook_shows_the_cutout_with_its_transparency() -> None:
    result = made()
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.format == "PNG" and np.array_equal(np.asarray(shown)[..., 3], result.mask)


def test_a_notebook_gets_a_small_picture_of_a_large_one() -> None:
    shown = Image.open(io.BytesIO(made(1500, 3000)._repr_png_()))
    assert (shown.size, shown.mode) == ((1024, 512), "RGBA")
    pixels = np.asarray(shown)
    assert (pixels[pixels[..., 3] > 0][:, 1] < 60).all(), "no green of the ground at the edges"


@pytest.mark.parametrize(
    ("name", "background", "form", "mode"),
    [
        *(("a.png", None, "PNG", "RGBA"), ("a.webp", None, "WEBP", "RGBA"), ("a.tiff", None, "TIFF", "RGBA")),
        *(("a.TIF", None, "TIFF", "RGBA"), ("a.jpg", None, "JPEG", "RGB"), ("new/folder/a.JPEG", None, "JPEG", "RGB")),
        *((f"a.{suffix}", "#f4f1ea", form, "RGB") for suffix, form in (("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF"))),
    ],
)
def test_the_suffix_chooses_the_format(tmp_path: Path, name: str, background: str | None, form: str, mode: str) -> None:
    result = made()
    result.save(tmp_path / name, background)
    saved = Image.open(tmp_path / name)
    assert (saved.format, saved.mode, saved.size) == (form, mode, (80, 60))
    off = 0 if form in {"PNG", "TIFF"} else 6
    pixels = np.asarray(saved).astype(int)
    assert np.abs(pixels[25, 30, :3] - RED).max() <= off
    if mode == "RGBA":
        assert np.array_equal(pixels[..., 3], result.mask)
        if form != "WEBP":  # which blurs colours across the edge
            assert np.array_equal(pixels[result.mask > 0], result.cutout[result.mask > 0])
            assert not pixels[result.mask == 0].any(), "no trace of the ground"
    else:
        ground = (244, 241, 234) if background else (255, 255, 255)
        assert np.abs(pixels[50, 60] - ground).max() <= off
        mixed = np.rint((result.cutout[15, 30, :3] * 100.0 + np.array(ground) * 155) / 255)
        assert np.abs(pixels[15, 30] - mixed).max() <= (1 if off == 0 else 40)


@pytest.mark.parametrize("background", ["white", "BLACK"])
def test_named_backgrounds(tmp_path: Path, background: str) -> None:
    made().save(tmp_path / "a.png", background=background)
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == ((255,) * 3 if background == "white" else (0,) * 3)


@pytest.mark.parametrize(
    ("path", "background", "error", "said"),
    [
        ("a.gif", None, ConfigError, r"a.gif must end in .png, .webp, .jpg or .tiff"),
        ("a", None, ConfigError, "must end in"),
        ("a.png", "beige", ConfigError, "the background 'beige' is not a colour; give six hex digits"),
        ("a.png", (1, 2, 3), ConfigError, "is not a colour"),
        (io.BytesIO(), None, TypeError, r"save takes a path, not a BytesIO; png\(\) and image.save\(\) serve open files"),
        (None, None, TypeError, "save takes a path, not a NoneType"),
    ],
)
def test_what_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, background: Any, error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        made().save(path, background)
    assert list(tmp_path.iterdir()) == []


def test_png_is_what_save_writes(tmp_path: Path) -> None:
    made().save(str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == made().png()


def test_a_rendition_by_name_path_or_object(tmp_path: Path) -> None:
    path = tmp_path / "square.yaml"
    path.write_text('fill: 0.8\naspect: "1:1"\nsize_px: 100\nbackground: "#ffffff"\n')
    (by_path,) = made().rendition(path)
    (by_text,) = made().rendition(str(path))
    assert by_path.data == by_text.data and by_path.size == (100, 100)
    assert [one.name for one in made().rendition("amazon-main")] == ["amazon-main"]


def test_it_can_be_pickled_with_and_without_its_image() -> None:
    result = made()
    for _ in range(2):
        again = pickle.loads(pickle.dumps(result))
        assert np.array_equal(again.cutout, result.cutout) and again.image.mode == "RGBA"
