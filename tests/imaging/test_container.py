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
from valid_images import png_chunk, rotated_exif, tiff, valid_images

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.container import MAX_PARTS, MAX_SCANS, check_jpeg
from pipeline.imaging.decode import decode

LIMITS = Limits(max_pixels=1_000_000, max_bytes=20_000_000)
JPEGS = [name for name in valid_images() if name.startswith("JPEG")]
PNGS = [name for name in valid_images() if name.startswith("PNG")]
GIFS = [name for name in valid_images() if name.startswith("GIF")]


@pytest.mark.parametrize("name", PNGS)
def test_a_png_without_its_complete_end_is_refused(name: str) -> None:
    """The pixels may be complete, but the file was cut off."""
    data = valid_images()[name]
    for lost in range(1, 30):
        with pytest.raises(DecodeError, match="cut off|checksum"):
            decode(data[:-lost], LIMITS)
    with pytest.raises(DecodeError, match="checksum"):
        decode(data[:-4] + bytes(4), LIMITS)
    np.testing.assert_array_equal(decode(data + b"more", LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_without_its_end_mark_is_refused_whatever_follows(name: str) -> None:
    """A preallocated download ends in zeros, which the decoder reads as grey."""
    data = valid_images()[name]
    for kept in ((data.index(b"\xff\xda") + len(data)) // 2, len(data) - 2):
        for end in (b"", b"\xff", b"no end mark", bytes(5000)):
            with pytest.raises(DecodeError, match="cut off"):
                decode(data[:kept] + end, LIMITS)
    for more in (b"\xff\xff\xd9", b"\xff\xd9" + bytes(5000)):
        np.testing.assert_array_equal(decode(data[:-2] + more, LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("name", ["JPEG baseline", "JPEG progressive"])
def test_empty_scans_are_counted_in_every_kind_of_jpeg(name: str) -> None:
    data = valid_images()[name]
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    few = data.count(b"\xff\xda")
    check_jpeg(data[:-2] + scan * (MAX_SCANS - few) + b"\xff\xd9")
    with pytest.raises(DecodeError, match="more than 100 scans"):
        decode(data[:-2] + scan * (MAX_SCANS - few + 1) + b"\xff\xd9", LIMITS)
    np.testing.assert_array_equal(
        decode(data + scan * MAX_SCANS, LIMITS), decode(data, LIMITS), "data behind the end is ignored"
    )


def repeated(name: str, at: int, part: bytes) -> Callable[[int], bytes]:
    data = valid_images()[name]
    return lambda count: data[:at] + part * count + data[at:]


@pytest.mark.parametrize(
    ("grown", "match"),
    [
        (repeated("JPEG baseline", 2, b"\xff\xe5\x00\x02"), "100,000 segments"),
        (repeated("PNG grey", 33, png_chunk(b"abCd", b"")), "100,000 chunks"),
        (repeated("PNG grey", -12, png_chunk(b"abCd", b"")), "100,000 chunks"),
        (repeated("GIF one", valid_images()["GIF one"].index(b"\x21\xfe"), b"\x21\xfe\x01a\x00"), "100,000 blocks"),
    ],
)
def test_too_many_parts_are_refused(grown: Callable[[int], bytes], match: str) -> None:
    decode(grown(100), LIMITS)
    with pytest.raises(DecodeError, match=match):
        decode(grown(MAX_PARTS + 1), LIMITS)


@pytest.mark.parametrize("name", GIFS)
def test_a_gif_cut_in_its_comments_is_a_decode_error(name: str) -> None:
    data = valid_images()[name]
    for kept in range(6, data.index(b"\x21") + 20):
        with pytest.raises(DecodeError):
            decode(data[:kept], LIMITS)


def tiled(tile_px: int, image_px: int) -> bytes:
    packed = zlib.compress(bytes(tile_px * tile_px), 9)
    size = [(256, 4, 1, image_px), (257, 4, 1, image_px), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = [(322, 4, 1, tile_px), (323, 4, 1, tile_px), (324, 4, 1, 200), (325, 4, 1, len(packed))]
    return tiff(*size, *place, body=packed)


def test_a_tile_may_not_be_much_larger_than_its_image() -> None:
    assert decode(tiled(512, 10), LIMITS).shape == (10, 10, 3)
    with pytest.raises(DecodeError, match="tiles of 5,000 x 5,000 pixels"):
        decode(tiled(5_000, 10), LIMITS)
    assert decode(tiled(5_008, 5_008), Limits()).shape == (5_008, 5_008, 3)


def test_too_many_strips_are_refused() -> None:
    count = MAX_PARTS + 1
    size = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = [(273, 4, count, 200), (278, 4, 1, 1), (279, 4, count, 200 + 4 * count)]
    body = struct.pack("<I", 200) * count + struct.pack("<I", 1) * count
    with pytest.raises(DecodeError, match="100,000 strips"):
        decode(tiff(*size, *place, body=body), LIMITS)


def test_the_stages_of_a_profile_are_ignored() -> None:
    """LittleCMS would take most of an hour for two million stages. The other tables are equivalent."""
    plain = decode(valid_images()["WebP lossy"], LIMITS)
    for count in (3, 2_000_000):
        block = hostile.stages(count)
        body = b"VP8X" + struct.pack("<IIHBHB", 10, 0x20, 25, 0, 18, 0)
        body += b"ICCP" + struct.pack("<I", len(block)) + block + valid_images()["WebP lossy"][12:]
        pixels = decode(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body, LIMITS)
        assert np.abs(pixels.astype(int) - plain).max() <= 1


def test_a_polyglot_has_the_format_of_its_first_bytes() -> None:
    for name, data in valid_images().items():
        for other in hostile.other_files():
            with pytest.raises(DecodeError, match="not a supported image"):
                decode(other + data, LIMITS)
            if not name.startswith(("WebP", "AVIF", "HEIC")):
                np.testing.assert_array_equal(decode(data + other, LIMITS), decode(data, LIMITS), name)


def test_bad_metadata_causes_neither_errors_nor_warnings() -> None:
    """Warnings would fill logs, and Python keeps each distinct one forever."""
    rng = random.Random(4)
    noise = b"II*\0\x08\0\0\0\x40\x01" + rng.randbytes(12 * 320)
    files = [hostile.with_metadata(rng, exif=block) for block in (noise, noise[2:], rotated_exif()[9:]) for _ in range(9)]
    files += [hostile.with_metadata(rng, icc=rng.randbytes(300)) for _ in range(9)]
    program = "import sys, pickle, pipeline.config.job as job, pipeline.imaging.decode as d\n"
    program += "assert all(d.decode(data, job.Limits()).shape == (19, 26, 3) for data in pickle.load(sys.stdin.buffer))"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(files), capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
