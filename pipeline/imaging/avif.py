"""Read what Pillow does not tell of an AVIF: the sizes of its coded pictures, and colours described by code points.

libavif scales a coded picture to whatever size the header claims, so a few bytes can pass as a large picture, or a gigantic one
as a thumbnail. The boxes are those of ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import DecodeError
from pipeline.imaging.av1 import coded_sizes

MAX_BOXES = 100_000

Span = tuple[int, int]
"""Start and end of bytes in a file."""


class Header(NamedTuple):
    """The claims of the boxes of an AVIF."""

    size: tuple[int, int] | None
    """Claimed width and height; None if the boxes cannot be read. libavif refuses these."""
    colours: tuple[int, int] | None
    """Code points of the colour primaries and the transfer function (ITU-T H.273)."""
    pictures: list[tuple[tuple[int, int], Span]]
    """Coded pictures: the claimed width and height, and where the first bytes are."""


def read_header(data: bytes) -> Header:
    """Return what the boxes of an AVIF claim.

    Raises:
        DecodeError: It has too many boxes.
    """
    boxes = _Boxes(data)
    try:
        still = _read_items(boxes)
    except (IndexError, KeyError):
        still = Header(None, None, [])
    try:
        tracks = _read_tracks(boxes) if data[8:12] == b"avis" else []
    except (IndexError, KeyError):
        tracks = []
    # libavif reads the first track of an animation, even if there is an item as well.
    return Header(tracks[0][0] if tracks else still.size, still.colours, [*tracks, *still.pictures])


def check_coded_sizes(data: bytes, header: Header) -> None:
    """Refuse an AVIF in which a coded picture has another size than the header claims."""
    for claimed, (start, end) in header.pictures:
        for coded in coded_sizes(data[start:end]):
            if coded != claimed:
                says, has = (f"{width:,} x {height:,}" for width, height in (claimed, coded))
                raise DecodeError(f"its header claims a picture of {says} pixels, but {has} are stored; export it again")


class _Reader:
    """Read big-endian integers one after another. Raises IndexError behind the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def uint(self, size: int) -> int:
        if self.at + size > len(self.data):
            raise IndexError
        self.at += size
        return int.from_bytes(self.data[self.at - size : self.at], "big")


class _Boxes:
    """The boxes of a file, counted."""

    def __init__(self, data: bytes) -> None:
        self.data, self.left = data, MAX_BOXES

    def within(self, span: Span) -> Iterator[tuple[bytes, Span]]:
        """Yield the name of each box, and the span of its contents."""
        start, end = span
        while start + 8 <= end:
            self.left -= 1
            if self.left < 0:
                raise DecodeError(f"its file structure has more than {MAX_BOXES:,} sections; export it again")
            reader = _Reader(self.data, start)
            size, name = reader.uint(4), self.data[start + 4 : start + 8]
            reader.at += 4
            size = reader.uint(8) if size == 1 else size or end - start
            if start + size < reader.at or start + size > end:
                return
            yield name, (reader.at, start + size)
            start += size

    def find(self, span: Span, *path: bytes) -> Span:
        """Return the span of the first box at a path. Raises KeyError if there is none."""
        for wanted in path:
            span = next((inner for name, inner in self.within(span) if name == wanted), (-1, -1))
            if span == (-1, -1):
                raise KeyError(wanted)
        return span


def _read_items(boxes: _Boxes) -> Header:
    """Read the items of a still picture: each has properties, such as its size, and a place in the file."""
    data = boxes.data
    start, end = boxes.find((0, len(data)), b"meta")
    inside = dict(boxes.within((start + 4, end)))
    properties = list(boxes.within(boxes.find(inside[b"iprp"], b"ipco")))
    reader = _Reader(data, inside[b"pitm"][0])
    primary = reader.uint(4 if reader.uint(4) >> 24 else 2)
    sizes: dict[int, tuple[int, int]] = {}
    colours = None
    for item, index in _associations(data, boxes.find(inside[b"iprp"], b"ipma")[0]):
        name, (at, _) = properties[index - 1] if 0 < index <= len(properties) else (b"", (0, 0))
        if name == b"ispe":
            sizes[item] = _Reader(data, at + 4).uint(4), _Reader(data, at + 8).uint(4)
        elif name == b"colr" and item == primary and data[at : at + 4] == b"nclx":
            colours = _Reader(data, at + 4).uint(2), _Reader(data, at + 6).uint(2)
    places = dict(_places(data, inside[b"iloc"][0], inside.get(b"idat", (0, 0))[0]))
    coded = [item for item in _coded_items(boxes, inside[b"iinf"]) if item in sizes and item in places]
    return Header(sizes.get(primary), colours, [(sizes[item], places[item]) for item in coded])


def _associations(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield an item's number and the number of one of its properties, from 1."""
    reader = _Reader(data, at)
    head = reader.uint(4)
    for _ in range(reader.uint(4)):
        item = reader.uint(4 if head >> 24 else 2)
        for _ in range(reader.uint(1)):
            yield item, reader.uint(2) & 0x7FFF if head & 1 else reader.uint(1) & 0x7F


def _coded_items(boxes: _Boxes, span: Span) -> Iterator[int]:
    """Yield the numbers of the items that are coded pictures."""
    count = 4 if boxes.data[span[0]] else 2
    for name, (at, _) in boxes.within((span[0] + 4 + count, span[1])):
        reader = _Reader(boxes.data, at)
        item = reader.uint(4 if reader.uint(4) >> 24 == 3 else 2)
        if name == b"infe" and boxes.data[reader.at + 2 : reader.at + 6] == b"av01":
            yield item


def _places(data: bytes, at: int, idat: int) -> Iterator[tuple[int, Span]]:
    """Yield each item's number and the span of its first part."""
    reader = _Reader(data, at)
    version, sizes = reader.uint(4) >> 24, reader.uint(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    for _ in range(reader.uint(4 if version == 2 else 2)):
        item = reader.uint(4 if version == 2 else 2)
        base = idat if version and reader.uint(2) & 15 == 1 else 0
        reader.uint(2)
        base += reader.uint(base_size)
        parts = []
        for _ in range(reader.uint(2)):
            reader.uint(index_size if version else 0)
            start, length = base + reader.uint(offset_size), reader.uint(length_size)
            parts.append((start, start + length if length else len(data)))
        if parts:
            yield item, parts[0]


def _read_tracks(boxes: _Boxes) -> list[tuple[tuple[int, int], Span]]:
    """Return the claimed size of each track of an animation, and the span of its first picture."""
    data, found = boxes.data, []
    for name, track in boxes.within(boxes.find((0, len(data)), b"moov")):
        if name == b"trak":
            end = boxes.find(track, b"tkhd")[1]
            size = _Reader(data, end - 8).uint(4) >> 16, _Reader(data, end - 4).uint(4) >> 16
            table = dict(boxes.within(boxes.find(track, b"mdia", b"minf", b"stbl")))
            (at, _), wide = (table[b"co64"], 8) if b"co64" in table else (table[b"stco"], 4)
            start, lengths = _Reader(data, at + 8).uint(wide), _Reader(data, table[b"stsz"][0] + 4)
            same, count = lengths.uint(4), lengths.uint(4)
            found.append((size, (start, start + (same or (lengths.uint(4) if count else 0)))))
    return found
