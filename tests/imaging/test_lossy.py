"""What files say about their colours and their size on paper."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.config.job import Limits
from pipeline.config.rendition import Rendition
from pipeline.errors import WriteError
from pipeline.imaging.decode import decode
from pipeline.imaging.icc import Colours, profile, srgb_profile
from pipeline.imaging.renditions.plain import encode_plain
from pipeline.imaging.renditions.render import render
from pipeline.types import Pixels

ADOBE_RGB = profile(Colours((0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 563 / 256), grey=False)
OPAQUE = np.full((48, 64), 255, np.uint8)


def opened(data: bytes | None) -> Image.Image:
    image = Image.open(io.BytesIO(data or b""))
    image.load()
    return image


def made(image: Pixels, **facts: Any) -> Image.Image:
    (one,) = render([Rendition.model_validate({"name": "own"} | facts)], image, OPAQUE[: len(image)], {})
    return opened(one.data)


def colours(image: Image.Image) -> np.ndarray:
    """Return L*, a* and b* of an image by its own profile; (H, W, 3), 8 bits each."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    transform = ImageCms.buildTransform(source, lab, "RGB", "LAB")
    found = np.asarray(ImageCms.applyTransform(image, transform)).astype(int)
    found[..., 1:] = (found[..., 1:] + 128) % 256  # Pillow's a and b are signed
    return found


def test_a_jpeg_on_white_is_srgb_whatever_the_photo_was() -> None:
    """The photo is in Adobe RGB. Read by the profiles of both files, the colours are the same."""
    tones = np.zeros((48, 64, 3), np.uint8)
    tones[:] = np.linspace((60, 90, 70), (190, 150, 160), 64)
    sink = io.BytesIO()
    Image.fromarray(tones).save(sink, "PNG", icc_profile=ADOBE_RGB)
    photo = decode(sink.getvalue(), Limits())
    assert np.abs(photo.astype(int) - tones).max() > 10, "the numbers differ"
    white = made(photo, background="#ffffff", format="jpeg", quality=100)
    assert white.info["icc_profile"] == srgb_profile()
    assert np.abs(colours(white) - colours(opened(sink.getvalue()))).max() <= 3


def test_the_profile_is_srgb_and_complete() -> None:
    read = ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile()))
    assert ImageCms.getProfileDescription(read).strip() == "sRGB"
    assert ImageCms.isIntentSupported(read, ImageCms.Intent.PERCEPTUAL, ImageCms.Direction.INPUT) == 1
    transform = ImageCms.buildTransform(read, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")), "RGB", "RGB")
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 15, np.uint8)] * 3), axis=-1).reshape(18, -1, 3)
    assert np.abs(np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform)).astype(int) - grid).max() <= 1
    assert len(srgb_profile()) < 600, "it is in every thumbnail"


@pytest.mark.parametrize("facts", [{}, {"background": "#ffffff"}, {"what": "alpha"}, {"what": "indexed"}, {"format": "webp"}])
def test_pngs_of_colours_are_marked_as_srgb_and_nothing_else_has_a_profile(facts: dict[str, Any]) -> None:
    image = made(np.full((48, 64, 3), 90, np.uint8), **facts)
    assert "icc_profile" not in image.info
    assert ("srgb" in image.info) == (image.format == "PNG" and "what" not in facts)
    assert "dpi" not in image.info


@pytest.mark.parametrize("dpi", [72, 300])
@pytest.mark.parametrize(
    "facts", [{}, {"background": "#ffffff"}, {"background": "#ffffff", "format": "jpeg"}, {"trim": 0.1, "shadow": True}]
)
def test_the_resolution_is_written_and_changes_no_pixel(dpi: int, facts: dict[str, Any]) -> None:
    image = np.full((48, 64, 3), 90, np.uint8)
    named = made(image, **facts, dpi=dpi)
    assert named.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)
    assert np.array_equal(np.asarray(named), np.asarray(made(image, **facts)))


@pytest.mark.parametrize("form", ["png", "jpeg", "tiff"])
def test_a_picture_of_cut_is_marked_as_a_rendition_is(form: Any) -> None:
    image = opened(encode_plain(np.full((48, 64, 3), 90, np.uint8), OPAQUE, form))
    assert ("icc_profile" in image.info, "srgb" in image.info) == (form != "png", form == "png")
    assert np.abs(decode(encode_plain(np.full((48, 64, 3), 90, np.uint8), OPAQUE, form), Limits()).astype(int) - 90).max() <= 1


@pytest.mark.parametrize("background", [None, "#ffffff"])
@pytest.mark.parametrize(("form", "longest"), [("webp", 16_383), ("jpeg", 65_500)])
def test_a_picture_too_large_for_its_format_is_refused_in_a_sentence(form: Any, longest: int, background: str | None) -> None:
    fits = encode_plain(np.zeros((2, longest, 3), np.uint8), np.zeros((2, longest), np.uint8), form, background)
    assert opened(fits).size == (longest, 2)
    said = rf"up to {longest:,} pixels, and the picture is 2 x {longest + 1}; use \.png or \.tiff"
    with pytest.raises(WriteError, match=said):
        encode_plain(np.zeros((longest + 1, 2, 3), np.uint8), np.zeros((longest + 1, 2), np.uint8), form, background)


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_formats_without_a_longest_side_take_it(form: Any) -> None:
    assert opened(encode_plain(np.zeros((2, 66_000, 3), np.uint8), np.zeros((2, 66_000), np.uint8), form)).size == (66_000, 2)
