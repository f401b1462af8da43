from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from valid_images import png, saved

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.ground_truth import decode_ground_truth

MASK = np.zeros((12, 20), np.uint8)
MASK[3:9, 5:15] = 255
PHOTO = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.mark.parametrize(
    "picture", [MASK, np.dstack([MASK] * 3), MASK.astype(np.uint16) * 257, Image.fromarray(MASK).convert("1")]
)
def test_common_forms_of_masks(picture: Any) -> None:
    decoded = decode_ground_truth(saved(picture, "PNG"), Limits())
    assert decoded.flags.c_contiguous and np.array_equal(decoded, MASK)


def test_soft_and_lossy_masks_are_kept() -> None:
    soft = np.linspace(0, 255, 240).astype(np.uint8).reshape(12, 20)
    assert np.array_equal(decode_ground_truth(saved(soft, "PNG"), Limits()), soft)
    assert np.abs(decode_ground_truth(saved(np.dstack([MASK] * 3), "JPEG", quality=90), Limits()).astype(int) - MASK).max() < 60


@pytest.mark.parametrize(
    "picture",
    [
        np.dstack([np.full_like(MASK, 255), MASK]),
        np.dstack([np.full_like(MASK, 200)] * 3 + [MASK]),
        np.dstack([PHOTO, MASK]),
        np.dstack([MASK] * 3 + [MASK]),
        np.dstack([MASK] * 3 + [np.full_like(MASK, 255)]),
    ],
)
def test_a_mask_in_the_transparency_is_used(picture: np.ndarray) -> None:
    """As of layers, cutouts and editors' exports; the last one is opaque, so its grey levels count."""
    mode = "LA" if picture.shape[2] == 2 else "RGBA"
    decoded = decode_ground_truth(saved(Image.fromarray(picture, mode), "PNG"), Limits())
    assert np.array_equal(decoded, MASK)


def test_a_transparency_that_contradicts_the_grey_levels_is_refused() -> None:
    picture = Image.fromarray(np.dstack([MASK] * 3 + [np.roll(MASK, 4, 1)]), "RGBA")
    with pytest.raises(DecodeError, match="are two different masks; save one of them"):
        decode_ground_truth(saved(picture, "PNG"), Limits())


@pytest.mark.parametrize("level", [1, 3, 100, 128, 240])
def test_labels_are_no_opacity(level: int) -> None:
    with pytest.raises(DecodeError, match=f"its highest level is {level} of 255, as in a label file"):
        decode_ground_truth(saved((MASK // 255 * level).astype(np.uint8), "PNG"), Limits())


DISC = np.asarray(np.hypot(*np.mgrid[-20:20, -30:30]) < 15, np.uint8)
RING = np.asarray(np.hypot(*np.mgrid[-20:20, -30:30]) < 17, np.uint8) - DISC
SMALL = np.asarray(np.hypot(*np.mgrid[-20:20, -30:30]) < 4, np.uint8)
EDGE = np.asarray(np.hypot(*np.mgrid[-20:20, -30:30]) < 7, np.uint8) - SMALL


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (DISC.astype(np.uint16), "its highest level is 1 of 65535, as in a label file"),
        (DISC.astype(np.uint16) * 255, "its highest level is 255 of 65535"),
        (np.arange(2400, dtype=np.uint16).reshape(40, 60) // 10, "its highest level is 239 of 65535"),
        (DISC + RING * 255, "its level 1 of 255 fills areas, as in a label file; save it with 255 for the object"),
        (SMALL + EDGE * 255, "its level 1 of 255 fills areas"),
        (DISC * 15 + RING * 255, "its level 15 of 255 fills areas"),
        (np.maximum(DISC * 3 + RING * 255, np.roll(DISC, 9, 1) * 41), "its level 41 of 255 fills areas"),
        (DISC.astype(np.uint16) + RING.astype(np.uint16) * 65535, "its level 1 of 65535 fills areas"),
        ((np.arange(2400).reshape(40, 60) // 40).astype(np.uint8), "its highest level is 59 of 255"),
    ],
)
def test_numbers_of_classes_and_instances_are_no_opacity(picture: np.ndarray, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode_ground_truth(saved(picture, "PNG"), Limits())


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_zero_and_one_in_sixteen_bits_is_no_empty_mask(colour: int, channels: int) -> None:
    samples = np.dstack([DISC] * channels).astype(">u2")
    if colour >= 4:
        samples[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    with pytest.raises(DecodeError, match="as in a label file"):
        decode_ground_truth(png(60, 40, 16, colour, rows), Limits())


@pytest.mark.parametrize("levels", [4, 16])
def test_soft_masks_of_few_levels_are_kept(levels: int) -> None:
    soft = (np.tile(np.linspace(0, levels - 1, 240), (12, 1)).astype(np.uint8) * (255 // (levels - 1))).astype(np.uint8)
    assert np.array_equal(decode_ground_truth(saved(soft, "PNG"), Limits()), soft)


def test_soft_edges_and_dim_parts_are_kept() -> None:
    edge = np.asarray(Image.fromarray(DISC * 255).resize((31, 21), Image.Resampling.BOX))
    veil = DISC * 255 - np.roll(DISC * 40, 14, 1) * DISC
    for mask in (edge, veil):
        assert np.array_equal(decode_ground_truth(saved(mask, "PNG"), Limits()), mask)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
def test_the_noise_of_lossy_files_is_no_label(form: str) -> None:
    """A lossy file has black as level 1, 2 or 3 in whole areas, depending on its quality."""
    thin = np.zeros((240, 320), np.uint8)
    thin[118:123] = 255
    for quality in (16, 20, 23, 31, 48, 62, 70, 90):
        decoded = decode_ground_truth(saved(thin, form, quality=quality), Limits())
        assert decoded[:100].max() < 10 and decoded[120].min() > 200
        if form == "JPEG":
            assert np.array_equal(decode_ground_truth(saved(decoded, "PNG"), Limits()), decoded), "saved again as PNG"


@pytest.mark.parametrize("alpha", [0, 1, 128])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_grey_levels_below_an_equal_transparency_are_used(mode: str, alpha: int) -> None:
    for mask in (MASK, np.zeros_like(MASK)):
        layers = [mask] * (len(mode) - 1) + [np.full_like(mask, alpha)]
        decoded = decode_ground_truth(saved(Image.fromarray(np.dstack(layers), mode), "PNG"), Limits())
        assert np.array_equal(decoded, mask)


def test_a_completely_transparent_picture_that_is_not_black_is_refused() -> None:
    picture = Image.fromarray(np.dstack([np.full_like(MASK, 255), np.zeros_like(MASK)]), "LA")
    with pytest.raises(DecodeError, match="completely transparent, but not black"):
        decode_ground_truth(saved(picture, "PNG"), Limits())


def test_empty_and_full_masks_are_masks() -> None:
    for level in (0, 255):
        assert (decode_ground_truth(saved(np.full((3, 4), level, np.uint8), "PNG"), Limits()) == level).all()


@pytest.mark.parametrize(
    ("data", "limits", "message"),
    [
        (saved(PHOTO, "PNG"), Limits(), "a colour picture; save it as a grey mask"),
        (saved(MASK // 255, "PNG"), Limits(), "highest level is 1 of 255"),
        (saved(MASK, "PNG"), Limits(max_pixels=10), "max_pixels"),
        (saved(MASK, "PNG")[:60], Limits(), "cut off"),
    ],
)
def test_other_files_are_refused(data: bytes, limits: Limits, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode_ground_truth(data, limits)
