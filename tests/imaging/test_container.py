from __future__ import annotations

import pickle
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import hostile
import numpy as np
import pytest
from whole import png_chunk, tiff, turned, whole

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.container import MAX_PARTS, MAX_SCANS, screen_jpeg
from pipeline.imaging.decode import decode

LIMITS = Limits(max_pixels=1_000_000, max_bytes=20_000_000)
JPEGS = [name for name in whole() if name.startswith("JPEG")]
PNGS = [name for name in whole() if name.startswith("PNG")]
GIFS = [name for name in whole() if name.startswith("GIF")]


@pytest.mark.parametrize("name", PNGS)
def test_a_png_that_lacks_any_of_its_end_is_refused(name: str) -> None:
    """All pixels are there long before that; but whoever cut the file off will have cut others worse."""
    data = whole()[name]
    for lost in range(1, 30):
        with pytest.raises(DecodeError, match="cut off|checksum"):
            decode(data[:-lost], LIMITS)
    with pytest.raises(DecodeError, match="checksum"):
        decode(data[:-4] + bytes(4), LIMITS)
    np.testing.assert_array_equal(decode(data + b"more", LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_is_refused_whatever_stands_there(name: str) -> None:
    """Zeros, say, as a download leaves them that set the whole file's room aside first: the decoder takes them for grey."""
    data = whole()[name]
    for kept in ((data.index(b"\xff\xda") + len(data)) // 2, len(data) - 2):
        for end in (b"", b"\xff", b"no end mark", bytes(5000)):
            with pytest.raises(DecodeError, match="cut off"):
                decode(data[:kept] + end, LIMITS)
    for more in (b"\xff\xff\xd9", b"\xff\xd9" + bytes(5000)):
        np.testing.assert_array_equal(decode(data[:-2] + more, LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("name", ["JPEG baseline", "JPEG progressive"])
def test_empty_scans_are_counted_in_every_kind_of_jpeg(name: str) -> None:
    data = whole()[name]
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    few = data.count(b"\xff\xda")
    screen_jpeg(data[:-2] + scan * (MAX_SCANS - few) + b"\xff\xd9")
    with pytest.raises(DecodeError, match="more than 100 scans"):
        decode(data[:-2] + scan * (MAX_SCANS - few + 1) + b"\xff\xd9", LIMITS)


def many(name: str, at: int, part: bytes) -> Callable[[int], bytes]:
    data = whole()[name]
    return lambda count: data[:at] + part * count + data[at:]


@pytest.mark.parametrize(
    ("grown", "match"),
    [
        (many("JPEG baseline", 2, b"\xff\xe5\x00\x02"), "100,000 segments"),
        (many("PNG grey", 33, png_chunk(b"abCd", b"")), "100,000 chunks"),
        (many("PNG grey", -12, png_chunk(b"abCd", b"")), "100,000 chunks"),
        (many("GIF one", whole()["GIF one"].index(b"\x21\xfe"), b"\x21\xfe\x01a\x00"), "100,000 blocks"),
    ],
)
def test_endless_parts_are_refused(grown: Callable[[int], bytes], match: str) -> None:
    decode(grown(100), LIMITS)
    with pytest.raises(DecodeError, match=match):
        decode(grown(MAX_PARTS + 1), LIMITS)


@pytest.mark.parametrize("name", GIFS)
def test_a_gif_cut_in_its_remarks_is_a_decode_error(name: str) -> None:
    data = whole()[name]
    for kept in range(6, data.index(b"\x21") + 20):
        with pytest.raises(DecodeError):
            decode(data[:kept], LIMITS)


def tiled(tile_px: int, image_px: int) -> bytes:
    squeezed = zlib.compress(bytes(tile_px * tile_px), 9)
    size = [(256, 4, 1, image_px), (257, 4, 1, image_px), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = [(322, 4, 1, tile_px), (323, 4, 1, tile_px), (324, 4, 1, 200), (325, 4, 1, len(squeezed))]
    return tiff(*size, *place, body=squeezed)


def test_a_tile_may_not_dwarf_its_image() -> None:
    assert decode(tiled(512, 10), LIMITS).shape == (10, 10, 3)
    with pytest.raises(DecodeError, match="tiles of 5,000 x 5,000 pixels"):
        decode(tiled(5_000, 10), LIMITS)
    assert decode(tiled(5_008, 5_008), Limits()).shape == (5_008, 5_008, 3)


def test_endless_strips_are_refused() -> None:
    count = MAX_PARTS + 1
    size = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = [(273, 4, count, 200), (278, 4, 1, 1), (279, 4, count, 200 + 4 * count)]
    body = struct.pack("<I", 200) * count + struct.pack("<I", 1) * count
    with pytest.raises(DecodeError, match="100,000 strips"):
        decode(tiff(*size, *place, body=body), LIMITS)


def test_a_profile_of_endless_stages_costs_nothing() -> None:
    """Two million stages: LittleCMS would take the better part of an hour, and the other tables say the same."""
    plain = decode(whole()["WebP lossy"], LIMITS)
    for count in (3, 2_000_000):
        block = hostile.stages(count)
        body = b"VP8X" + struct.pack("<IIHBHB", 10, 0x20, 25, 0, 18, 0)
        body += b"ICCP" + struct.pack("<I", len(block)) + block + whole()["WebP lossy"][12:]
        pixels = decode(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, LIMITS)
        assert np.abs(pixels.astype(int) - plain).max() <= 1


def test_a_polyglot_is_what_its_first_bytes_say() -> None:
    for name, data in whole().items():
        for other in hostile.strangers():
            with pytest.raises(DecodeError, match="not an image that is read here"):
                decode(other + data, LIMITS)
            if not name.startswith(("WebP", "AVIF", "HEIC")):
                np.testing.assert_array_equal(decode(data + other, LIMITS), decode(data, LIMITS), name)


def test_bad_metadata_costs_no_picture_and_no_word() -> None:
    """Warnings would fill logs, and Python keeps each distinct one for good."""
    rng = random.Random(4)
    noise = b"II*\0\x08\0\0\0\x40\x01" + rng.randbytes(12 * 320)
    files = [hostile.with_metadata(rng, exif=block) for block in (noise, noise[2:], turned()[9:]) for _ in range(9)]
    files += [hostile.with_metadata(rng, icc=rng.randbytes(300)) for _ in range(9)]
    program = (
        "import sys, pickle, pipeline.config.job, pipeline.imaging.decode as d\nfor data in pickle.load(sys.stdin.buffer):\n"
    )
    program += "    assert d.decode(data, pipeline.config.job.Limits()).shape == (19, 26, 3)"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(files), capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
