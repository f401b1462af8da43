from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.imaging.encode import encode_cutout, encode_mask
from pipeline.types import Pixels

Maker = Callable[[int, int], Pixels]
SIZES = [(1, 1), (1, 7), (9, 1), (33, 57), (256, 256), (30, 20000), (20000, 30), (1, 1_000_000)]


def read(data: bytes, mode: str) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", mode)
    return np.asarray(image)


def soft(height: int, width: int) -> np.ndarray:
    """Empty, soft and full parts in every row and column."""
    return np.clip(np.add.outer(np.arange(height) * 3, np.arange(width) * 5) % 700 - 200, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_comes_back_exactly(size: tuple[int, int]) -> None:
    mask = soft(*size)
    np.testing.assert_array_equal(read(encode_mask(mask), "L"), mask)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", SIZES)
def test_a_cutout_comes_back_exactly(size: tuple[int, int], photo: Maker) -> None:
    image, mask = photo(*size), soft(*size)
    before = image.copy(), mask.copy()
    cutout = read(encode_cutout(image, mask), "RGBA")
    np.testing.assert_array_equal(cutout[..., 3], mask)
    np.testing.assert_array_equal(cutout[..., :3][mask > 0], image[mask > 0])  # straight: alpha has not touched them
    assert not cutout[mask == 0].any()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_views_are_written_like_copies(photo: Maker) -> None:
    image, mask = photo(80, 90), soft(80, 90)
    part = np.s_[5:70:2, 60:3:-1]
    assert encode_mask(mask[part]) == encode_mask(mask[part].copy())
    assert encode_cutout(image[part], mask[part]) == encode_cutout(image[part].copy(), mask[part].copy())


def test_the_same_pixels_give_the_same_bytes(photo: Maker) -> None:
    image, mask = photo(300, 400), soft(300, 400)
    assert len({encode_cutout(image, mask) for _ in range(3)}) == 1
    assert len({encode_mask(mask) for _ in range(3)}) == 1
    other = image.copy()
    other[mask == 0] = 7  # what can't be seen can't change the file
    assert encode_cutout(other, mask) == encode_cutout(image, mask)


def test_nothing_but_pixels_is_written() -> None:
    data = encode_mask(soft(20, 30))
    names = []
    at = 8
    while at < len(data):
        names.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}
