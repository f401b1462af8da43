"""Check an image file's structure before a decoder reads it: complete, and no decompression bomb.

Decoders accept any number of parts. A few bytes per part keep a decoder busy for hours (empty scans of a JPEG) or fill the
memory (the tile of a TIFF). If the end of a file is missing, decoders return a picture that is half black.
"""

from __future__ import annotations

import re
import zlib

from PIL import Image, TiffImagePlugin

from pipeline.errors import DecodeError
from pipeline.imaging.sniff import Format

MAX_SCANS = 100
"""Scans of a JPEG. Encoders write about ten. Each may have ten bytes, and the decoder walks the complete picture for each."""

MAX_PARTS = 100_000
"""Segments, chunks, blocks or strips of a file. Each costs the decoder some hundred bytes and microseconds."""

MAX_PROFILE_BYTES = 2**20
"""Bytes of a PNG's colour profile that Pillow decompresses."""

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_COLOUR_CHUNKS = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"eXIf"}
"""Chunks that can change colours or orientation."""

MAX_TILE_PX = 4096 * 4096
"""Pixels of a TIFF's tile, unless the image has more. The decoder allocates a complete tile, whatever the image's size."""

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_NO_END = "the file is cut off: its end marker is missing; fetch it again"


def check_jpeg(data: bytes) -> None:
    """Refuse too many scans or segments, and a file without its end mark.

    The decoder notices a missing mark only at the end of the data. Other bytes there, such as the zeros of a preallocated
    download, are samples to it.
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
        raise DecodeError(_NO_END)


def check_png(data: bytes) -> None:
    """Compare a PNG's pixels and end with their checksums. Pillow doesn't, and returns a half-black picture."""
    view = memoryview(data)
    start = 8
    for _ in range(MAX_PARTS):
        end = start + 8 + int.from_bytes(view[start : start + 4], "big")
        if end + 4 > len(data):
            raise DecodeError(_NO_END)
        name = data[start + 4 : start + 8]
        if name in {b"IDAT", b"IEND"} and zlib.crc32(view[start + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DecodeError("its pixels don't match their checksum; fetch it again")
        if name == b"IEND":
            return
        start = end + 4
    raise _too_many("chunks")


def without_metadata(data: bytes) -> bytes:
    """Return a sound PNG without the chunks that do not concern its pixels, and without damaged or oversized ones that could.

    Pillow refuses a picture for a text of more than 1 MiB, or a wrong checksum in one.
    """
    view = memoryview(data)
    kept, start = [view[:8]], 8
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        chunk, name = view[start:end], data[start + 4 : start + 8]
        if name in _PIXEL_CHUNKS or (name in _COLOUR_CHUNKS and _is_usable(chunk, name)):
            kept.append(chunk)
        start = end
        if name == b"IEND":
            break
    return data if sum(map(len, kept)) == start else b"".join(kept)


def _is_usable(chunk: memoryview, name: bytes) -> bool:
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if name != b"iCCP":
        return True
    _, _, packed = bytes(chunk[8:-4]).partition(b"\0")
    try:
        unpack = zlib.decompressobj()
        unpack.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return not unpack.unconsumed_tail


def canvas_size(data: bytes, form: Format) -> tuple[int, int] | None:
    """Return the width and height of a GIF's or WebP's canvas, which Pillow checks or allocates on opening; None for others."""
    if form == "GIF" and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if form != "WebP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    bits, mask = (int.from_bytes(data[21:25], "little"), 0x3FFF)
    if data[12:16] == b"VP8L":
        return (bits & mask) + 1, (bits >> 14 & mask) + 1
    return int.from_bytes(data[26:28], "little") & mask, int.from_bytes(data[28:30], "little") & mask


def check_gif(data: bytes) -> None:
    """Refuse too many extension blocks before the first frame."""
    flags = int.from_bytes(data[10:11], "big")
    position = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)  # behind the colour table
    blocks = 0
    while data[position : position + 1] == b"\x21":
        position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
            blocks += 1
        position += 1
        blocks += 1
        if blocks > MAX_PARTS:
            raise _too_many("blocks before its picture")


def check_tiff(image: Image.Image) -> None:
    """Refuse a tile much larger than the image, and too many strips; of a TIFF whose header is read."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    width, height = image.tag_v2.get(322, 0), image.tag_v2.get(323, 0)
    if width * height > max(MAX_TILE_PX, image.width * image.height):
        raise DecodeError(f"it is stored in tiles of {width:,} x {height:,} pixels; save it again with smaller ones")
    planar, bits = image.tag_v2.get(284, 1), max(image.tag_v2.get(258, (1,)))
    if planar == 2 and bits > 8 and any(tile[0] == "raw" for tile in image.tile):
        # Pillow reads the planes of uncompressed ones as if they were interleaved (python-pillow/Pillow#5973).
        raise DecodeError(f"it stores {bits}-bit samples in separate planes; save it again with interleaved samples")
    if len(image.tile) > MAX_PARTS or len(image.tag_v2.get(273, ())) > MAX_PARTS:
        raise _too_many("strips")


def _too_many(parts: str) -> DecodeError:
    return DecodeError(f"it has more than {MAX_PARTS:,} {parts}; save it again with fewer")
