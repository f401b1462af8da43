"""Check an image file's structure before a decoder reads it: complete, and no decompression bomb.

Decoders accept any number of parts. A few bytes per part keep a decoder busy for hours (empty scans of a JPEG) or fill the
memory (the tile of a TIFF). If the end of a file is missing, decoders return a picture that is half black.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from PIL import TiffImagePlugin

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.icc import REC_709, Colours, coded_colours
from pipeline.imaging.sniff import Format

MAX_SIDE_PX = 1_000_000
"""Longest side that libpng reads; a larger mask could not be read back."""

MAX_SCANS = 100
"""Scans of a JPEG. Encoders write about ten. Each may have ten bytes, and the decoder walks the complete picture for each."""

MAX_PARTS = 100_000
"""Segments, chunks, blocks or strips of a file. Each costs the decoder some hundred bytes and microseconds."""

MAX_PAGES = 100
"""Pages of a TIFF that are looked at to find the first full one."""

MAX_PROFILE_BYTES = 2**20
"""Bytes of a PNG's colour profile that Pillow decompresses."""

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_METADATA_CHUNKS = {b"iCCP", b"eXIf"}
"""Chunks that Pillow needs for colours and orientation."""
_COLOUR_CHUNKS = {b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}

_MODES_OF_PLANES = {"L", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Modes of TIFFs with separate planes that Pillow reads right. Of grey with alpha and of Lab it leaves planes out."""

MAX_TILE_PX = 4096 * 4096
"""Pixels of a TIFF's tile, unless the image has more. The decoder allocates a complete tile, whatever the image's size."""

SRGB_GAMMA = 45_455
"""A PNG's gamma that stands for sRGB. libpng regards a difference of up to 5 % as none."""

MIN_GAMMA, MAX_GAMMA = 10_000, 1_000_000
"""Others are damage: they would make a picture black or white."""

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
            raise DecodeError(f"it has more than {MAX_SCANS} scans; save it again as a baseline JPEG, not a progressive one")
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
        if name in _PIXEL_CHUNKS or (name in _METADATA_CHUNKS and _is_usable(chunk, name)):
            kept.append(chunk)
        start = end
        if name == b"IEND":
            break
    return data if sum(map(len, kept)) == start else b"".join(kept)


def png_colours(data: bytes) -> Colours | None:
    """Return the colours that a sound PNG's chunks describe; None for sRGB, for a profile, and if nothing is said.

    The order of precedence is that of PNG (third edition), but a profile comes first. As in browsers, primaries count only with
    a gamma.

    Raises:
        DecodeError: The colours are HDR.
    """
    said = dict(_colour_chunks(data))
    if b"iCCP" in said:
        return None
    if len(code := said.get(b"cICP", b"")) == 4:
        return coded_colours(code[0], code[1])
    gamma = int.from_bytes(said.get(b"gAMA", b""), "big")
    if b"sRGB" in said or len(said.get(b"gAMA", b"")) != 4 or not MIN_GAMMA <= gamma <= MAX_GAMMA:
        return None
    numbers = said.get(b"cHRM", b"")
    primaries = tuple(number / 100_000 for number in struct.unpack(">8i", numbers)) if len(numbers) == 32 else REC_709
    exponent = None if abs(gamma - SRGB_GAMMA) < SRGB_GAMMA / 20 else 100_000 / gamma
    return Colours(primaries, exponent)


def _colour_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and body of each sound chunk about colours before a PNG's pixels."""
    view, start = memoryview(data), 8
    while (name := data[start + 4 : start + 8]) not in {b"IDAT", b"IEND", b""}:
        end = start + 12 + int.from_bytes(view[start : start + 4], "big")
        if name in _COLOUR_CHUNKS and _is_usable(view[start:end], name):
            yield name, data[start + 8 : end - 4]
        start = end


def _is_usable(chunk: memoryview, name: bytes) -> bool:
    if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
        return False
    if name != b"iCCP":
        return True
    _, _, packed = bytes(chunk[8:-4]).partition(b"\0")
    if packed[:1] != b"\0":  # the only method of compression
        return False
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


def check_size(size: tuple[int, int], limits: Limits) -> None:
    """Compare a size, width and height, with the limits, before memory is taken for it.

    Raises:
        DecodeError: It is empty, or above the limits.
    """
    width, height = size
    if width < 1 or height < 1:
        raise DecodeError(f"it is {width} wide and {height} high; an image needs at least one pixel")
    if width * height > limits.max_pixels:
        raise DecodeError(
            f"it is {width:,} wide and {height:,} high, {width * height:,} pixels; "
            f"limits.max_pixels allows {limits.max_pixels:,}"
        )
    if max(width, height) > MAX_SIDE_PX:
        raise DecodeError(f"it is {width:,} wide and {height:,} high; no side may exceed {MAX_SIDE_PX:,} pixels")


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


def seek_full_page(image: TiffImagePlugin.TiffImageFile) -> None:
    """Go to the first page that is neither a reduced copy nor a mask of another page; stay if all are."""
    page = 0
    while _is_secondary(image):
        page += 1
        try:
            if page > MAX_PAGES:
                raise EOFError
            image.seek(page)
        except EOFError:
            image.seek(0)
            break
    if _is_secondary(image) and 330 in image.tag_v2:
        raise DecodeError("its pages hold only a preview, as in a camera's raw file; export it as PNG or JPEG")


def _is_secondary(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Return whether the page is marked as a reduced copy or a mask (NewSubfileType, or the older SubfileType)."""
    return bool(image.tag_v2.get(254, 0) & 0b101) or image.tag_v2.get(255, 1) == 2


def check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse what Pillow would read wrong, a tile much larger than the image, and too many strips."""
    if image.tag_v2.get(262) == 5 and image.tag_v2.get(332, 1) != 1:
        raise DecodeError("its inks are not cyan, magenta, yellow and black; save it as RGB")
    if 2 in image.tag_v2.get(339, (1,)):
        raise DecodeError(
            "its samples are signed numbers, which have no defined white; save it with unsigned 8 or 16 bits per channel"
        )
    width, height = image.tag_v2.get(322, 0), image.tag_v2.get(323, 0)
    if width * height > max(MAX_TILE_PX, image.width * image.height):
        raise DecodeError(f"it is stored in tiles of {width:,} x {height:,} pixels; save it again with smaller ones")
    has_planes, bits = image.tag_v2.get(284, 1) == 2 and image.tag_v2.get(277, 1) > 1, max(image.tag_v2.get(258, (1,)))
    if has_planes and image.mode not in _MODES_OF_PLANES:
        raise DecodeError(
            "it stores samples other than RGB and CMYK in separate planes; save it again with interleaved samples"
        )
    if has_planes and bits > 8 and any(tile[0] == "raw" for tile in image.tile):
        # Pillow reads the planes of uncompressed ones as if they were interleaved (python-pillow/Pillow#5973).
        raise DecodeError(f"it stores {bits}-bit samples in separate planes; save it again with interleaved samples")
    if len(image.tile) > MAX_PARTS or len(image.tag_v2.get(273, ())) > MAX_PARTS:
        raise _too_many("strips")


def _too_many(parts: str) -> DecodeError:
    return DecodeError(f"it has more than {MAX_PARTS:,} {parts}; save it again with fewer")
