from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from valid_images import saved

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
