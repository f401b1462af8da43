from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

import pipeline.imaging.png
from pipeline.imaging.png import encode_cutout, encode_mask
from pipeline.paths import EXAMPLES
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
def test_masks_are_lossless(size: tuple[int, int]) -> None:
    mask = soft(*size)
    np.testing.assert_array_equal(read(encode_mask(mask), "L"), mask)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", SIZES)
def test_cutouts_are_lossless_where_visible(size: tuple[int, int], photo: Maker) -> None:
    image, mask = photo(*size), soft(*size)
    before = image.copy(), mask.copy()
    cutout = read(encode_cutout(image, mask), "RGBA")
    np.testing.assert_array_equal(cutout[..., 3], mask)
    np.testing.assert_array_equal(cutout[..., :3][mask > 0], image[mask > 0])  # straight, not premultiplied
    assert not cutout[mask == 0].any()
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_array_views_are_encoded_like_contiguous_arrays(photo: Maker) -> None:
    image, mask = photo(80, 90), soft(80, 90)
    part = np.s_[5:70:2, 60:3:-1]
    assert encode_mask(mask[part]) == encode_mask(mask[part].copy())
    assert encode_cutout(image[part], mask[part]) == encode_cutout(image[part].copy(), mask[part].copy())


def test_the_same_pixels_give_the_same_bytes(photo: Maker) -> None:
    image, mask = photo(300, 400), soft(300, 400)
    assert len({encode_cutout(image, mask) for _ in range(3)}) == 1
    assert len({encode_mask(mask) for _ in range(3)}) == 1
    other = image.copy()
    other[mask == 0] = 7  # invisible pixels do not change the file
    assert encode_cutout(other, mask) == encode_cutout(image, mask)


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield a PNG's chunks by name, after checking each checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    start = 8
    while start < len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        assert zlib.crc32(data[start + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        yield data[start + 4 : start + 8], data[start + 8 : end]
        start = end + 4


def files(height: int, width: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield a mask and a cutout of noise, and the bytes per row of each."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 256, (height, width), np.uint8)
    mask[rng.random((height, width)) < 0.3] = 0
    yield encode_mask(mask), width
    yield encode_cutout(image, mask), 4 * width


@pytest.mark.parametrize("size", [(1, 1), (200, 300), (700, 900), (1, 100_000), (100_000, 1)])
def test_files_hold_nothing_but_pixels_and_their_colour_space(size: tuple[int, int]) -> None:
    for data, row_bytes in files(*size, seed=1):
        names, parts = zip(*chunks(data), strict=True)
        before = 1 if row_bytes == size[1] else 2  # a cutout says that its colours are sRGB
        assert names == ((b"IHDR", b"sRGB")[:before] + (b"IDAT",) * (len(names) - before - 1) + (b"IEND",))
        assert all(parts[:-1])
        assert len(zlib.decompress(b"".join(parts[before:-1]))) == size[0] * (1 + row_bytes)


def test_repetitions_stay_within_the_window_that_the_file_declares() -> None:
    """A decoder keeps only the declared window. Python's checks it when it reads in small steps."""
    for data, row_bytes in files(300, 500, seed=2):
        packed = b"".join(part for name, part in chunks(data) if name == b"IDAT")
        window = 2 ** (8 + (packed[0] >> 4))
        assert window <= 1024
        reader, rows = zlib.decompressobj(), 0
        while packed:
            rows += len(reader.decompress(packed, 7))
            packed = reader.unconsumed_tail
        assert rows + len(reader.flush()) == 300 * (1 + row_bytes)
        assert reader.eof


@pytest.mark.parametrize("seed", range(60))
def test_pillow_and_opencv_read_any_size_alike(seed: int, photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 130, 2))
    monkeypatch.setattr(pipeline.imaging.png, "STRIPE_BYTES", int(rng.integers(1, 20_000)))
    image, mask = photo(height, width), soft(height, width)
    if seed % 2:
        mask = rng.permuted(mask, axis=seed % 3 % 2)
    cutout = np.where(mask[..., None] > 0, np.dstack([image, mask]), 0)
    for data, mode, pixels in ((encode_mask(mask), "L", mask), (encode_cutout(image, mask), "RGBA", cutout)):
        np.testing.assert_array_equal(read(data, mode), pixels)
        opened = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(opened if mode == "L" else cv2.cvtColor(opened, cv2.COLOR_BGRA2RGBA), pixels)


@pytest.mark.parametrize("name", ["astronaut.jpg", "cat.jpg", "espresso.jpg", "osprey.jpg"])
def test_cutouts_are_hardly_larger_than_pillow_s(name: str) -> None:
    image = np.asarray(Image.open(EXAMPLES / name).convert("RGB"))
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    mask = np.clip(300 - np.hypot(y - image.shape[0] / 2, x - image.shape[1] / 2), 0, 255).astype(np.uint8)
    cutout = np.where(mask[..., None] > 0, np.dstack([image, mask]), 0).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(cutout).save(sink, "PNG")
    assert len(encode_cutout(image, mask)) < 1.15 * sink.tell()
