"""What is asked of a file's own structure before a decoder gets it: that it is whole, and no trap.

Decoders take all parts of a file as they come. A few bytes each are enough to keep one busy for hours (empty scans of a
JPEG), to have it fill the memory (the tile of a TIFF), or, where the end is lost, to get a picture that is half black.
"""

from __future__ import annotations

import re
import zlib

from PIL import Image, TiffImagePlugin

from pipeline.errors import DecodeError

MAX_SCANS = 100
"""Scans of a JPEG. Encoders write about ten; the decoder walks the whole picture for each, and ten bytes make one."""

MAX_PARTS = 100_000
"""Segments, chunks, blocks or strips of a file: each costs the decoder some hundred bytes and microseconds."""

MAX_TILE_PX = 4096 * 4096
"""Pixels of a TIFF's tile, where the image has fewer: the decoder makes room for a whole one, whatever the image's size."""

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


def screen_jpeg(data: bytes) -> None:
    """Refuse endless scans and segments, and a file without its end mark.

    The decoder misses that mark only where the data stops. Where something else follows, such as the zeros of a download
    that was given its room in advance, it takes that for samples.
    """
    scans = parts = 0
    marker = _MARKER.search(data, 2)
    while marker and (kind := data[marker.start() + 1]) != _END_OF_IMAGE:
        scans += kind == _START_OF_SCAN
        parts += 1
        if scans > MAX_SCANS:
            raise DecodeError(f"it has more than {MAX_SCANS} scans; save it again as an ordinary JPEG")
        if parts > MAX_PARTS:
            raise _too_many("segments")
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        marker = _MARKER.search(data, marker.end() + length)
    if not marker:
        raise DecodeError("it is cut off: its end mark is missing; fetch it again")


def screen_png(data: bytes) -> None:
    """Hold a PNG's pixels and its end against their checksums; Pillow doesn't, and gives a half-black picture instead."""
    view = memoryview(data)
    start = 8
    for _ in range(MAX_PARTS):
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        if end + 4 > len(data):
            raise DecodeError("it is cut off: its end mark is missing; fetch it again")
        name = data[start + 4 : start + 8]
        if name in {b"IDAT", b"IEND"} and zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DecodeError("its pixels don't match their checksum; fetch it again")
        if name == b"IEND":
            return
        start = end + 4
    raise _too_many("chunks")


def screen_gif(data: bytes) -> None:
    """Refuse endless remarks before the first frame."""
    at = 13 + _colours(data, 10)
    blocks = 0
    while data[at : at + 1] == b"\x21":
        at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
        at += 1
        blocks += 1
        if blocks > MAX_PARTS:
            raise _too_many("blocks before its picture")


def _colours(data: bytes, at: int) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    flags = int.from_bytes(data[at : at + 1], "big")
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def screen_tiff(image: Image.Image) -> None:
    """Refuse a tile much larger than the image, and endless strips; of a TIFF whose header is read."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    width, height = image.tag_v2.get(322, 0), image.tag_v2.get(323, 0)
    if width * height > max(MAX_TILE_PX, image.width * image.height):
        raise DecodeError(f"it is stored in tiles of {width:,} x {height:,} pixels; save it again with smaller ones")
    if len(image.tile) > MAX_PARTS or len(image.tag_v2.get(273, ())) > MAX_PARTS:
        raise _too_many("strips")


def _too_many(parts: str) -> DecodeError:
    return DecodeError(f"it has more than {MAX_PARTS:,} {parts}; save it again with fewer")
