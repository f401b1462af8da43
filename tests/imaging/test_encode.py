from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

import pipeline.imaging.encode
from pipeline.imaging.encode import encode_cutout, encode_mask
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


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A PNG's chunks by name, each held against its checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        assert zlib.crc32(data[at + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : end]
        at = end + 4


def files(height: int, width: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """A mask and a cutout of noise, and the bytes of a row in each."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 256, (height, width), np.uint8)
    mask[rng.random((height, width)) < 0.3] = 0
    yield encode_mask(mask), width
    yield encode_cutout(image, mask), 4 * width


@pytest.mark.parametrize("size", [(1, 1), (200, 300), (700, 900), (1, 100_000), (100_000, 1)])
def test_nothing_but_pixels_is_written(size: tuple[int, int]) -> None:
    for data, row_bytes in files(*size, seed=1):
        names, parts = zip(*chunks(data), strict=True)
        assert names == (b"IHDR", *[b"IDAT"] * (len(names) - 2), b"IEND")
        assert all(parts[:-1])
        assert len(zlib.decompress(b"".join(parts[1:-1]))) == size[0] * (1 + row_bytes)


def test_no_repetition_lies_further_back_than_the_file_promises() -> None:
    """A decoder need keep no more than the window that the stream names; Python's checks it when read in small steps."""
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
def test_any_size_reads_the_same_everywhere(seed: int, photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 130, 2))
    monkeypatch.setattr(pipeline.imaging.encode, "STRIPE_BYTES", int(rng.integers(1, 20_000)))
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
