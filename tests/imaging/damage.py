"""Generate damaged and hostile image files, each reproducible from its seed and number."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from hostile import bomb, garbage_metadata, no_image, polyglot
from valid_images import valid_images

NUMBERS = (0, 1, 2, 3, 4, 8, 0x10, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Values of wrong fields: the limits of each integer width."""

_STEPS = 20


def damaged(seed: int, count: int, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield files ``first`` to ``first + count`` of a seed as (name, bytes). A name is "kind: origin".

    Each seed begins with the valid images and their first 95, 90, 85 … per cent. The others are random.
    """
    for number in range(first, first + count):
        yield _file(seed, number)


def _file(seed: int, number: int) -> tuple[str, bytes]:
    names = list(valid_images())
    if number < len(names) * _STEPS:
        name, kept = names[number // _STEPS], _STEPS - number % _STEPS
        data = valid_images()[name]
        kind = "valid" if kept == _STEPS else f"cut at {kept * 100 // _STEPS} %"
        return f"{kind}: {name}", data[: len(data) * kept // _STEPS]
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
    if kind in _GENERATED:
        name, data = _GENERATED[kind](rng)
    else:
        name = rng.choice(names)
        data = _DAMAGED[kind](rng, name)
    return f"{kind}: {name}", data


def _cut(rng: random.Random, name: str) -> bytes:
    data = valid_images()[name]
    return data[: rng.choice((rng.randrange(len(data)), len(data) - rng.randint(1, 20)))]


def _flipped(rng: random.Random, name: str) -> bytes:
    data = bytearray(valid_images()[name])
    for _ in range(rng.randint(1, 8)):
        data[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _place(rng: random.Random, length: int) -> int:
    """Return a position: half of the time anywhere, otherwise near the start, in the headers."""
    return rng.randrange(length if rng.random() < 0.5 else min(length, 200))


def _overwritten(rng: random.Random, name: str) -> bytes:
    data = bytearray(valid_images()[name])
    for _ in range(rng.randint(1, 4)):
        number, width = rng.choice(NUMBERS), rng.choice((1, 2, 4))
        at = _place(rng, len(data) - width)
        data[at : at + width] = (number % 256**width).to_bytes(width, rng.choice(("big", "little")))
    return bytes(data)


def _spliced(rng: random.Random, name: str) -> bytes:
    data, other = valid_images()[name], valid_images()[rng.choice(list(valid_images()))]
    if rng.random() < 0.3:
        at = rng.randrange(len(data))
        return data[:at] + other[rng.randrange(len(other)) :] + data[at:]
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _ranges(rng: random.Random, name: str) -> bytes:
    """Zero, repeat, remove, copy or randomise a range."""
    data = valid_images()[name]
    start = _place(rng, len(data))
    end = min(len(data), start + rng.choice((1, 4, 16, 64, len(data))))
    if rng.random() < 0.3:  # the missing end of a preallocated download
        start, end = rng.randrange(len(data)), len(data)
    piece, elsewhere = data[start:end], rng.randrange(len(data))
    return rng.choice(
        (
            data[:start] + bytes(len(piece)) + data[end:],
            data[:start] + piece * rng.choice((2, 3, 50)) + data[end:],
            data[:start] + data[end:],
            data[:elsewhere] + piece + data[elsewhere:],
            data[:start] + rng.randbytes(len(piece)) + data[end:],
        )
    )


def _wrong_fields(rng: random.Random, name: str) -> bytes:
    """Change one to three fields of the format's structure, and fix checksums."""
    data = bytearray(valid_images()[name])
    fields = _fields(name)
    for at, width, order in rng.choices(fields, k=rng.choice((1, 1, 2, 3))):
        number = rng.choice((rng.choice(NUMBERS), rng.randrange(300), rng.randrange(65536)))
        data[at : at + width] = (number % 256**width).to_bytes(width, order)
    return _fix_checksums(data) if name.startswith("PNG") else bytes(data)


@lru_cache(maxsize=64)
def _fields(name: str) -> list[tuple[int, int, str]]:
    """Return (position, width in bytes, byte order) of the fields of a valid image."""
    form = name.split(maxsplit=1)[0]
    return list(_FIELDS["ISO" if form in {"AVIF", "HEIC"} else form](valid_images()[name]))


_Fields = Iterator[tuple[int, int, str]]


def _png_fields(data: bytes) -> _Fields:
    yield from [(16, 4, "big"), (20, 4, "big"), *((at, 1, "big") for at in (24, 25, 26, 27, 28))] * 2
    for start, end in _chunks(data):
        yield start, 4, "big"
        yield start + 4, 1, "big"
        for at in range(start + 8, min(end, start + 40)):
            yield at, 1, "big"


def _chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start of each PNG chunk and the end of its body, while the lengths are valid."""
    start = 8
    while start + 12 <= len(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            return
        yield start, end
        start = end + 4


def _fix_checksums(data: bytearray) -> bytes:
    for start, end in list(_chunks(data)):
        struct.pack_into(">I", data, end, zlib.crc32(data[start + 4 : end]))
    return bytes(data)


def _jpeg_fields(data: bytes) -> _Fields:
    at = 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield at + 1, 1, "big"
        yield at + 2, 2, "big"
        for inner in range(at + 4, min(at + 2 + length, at + 24)):
            yield inner, 1, "big"
        if 0xC0 <= data[at + 1] <= 0xC2:
            yield from [(at + 5, 2, "big"), (at + 7, 2, "big")] * 8
        at += 2 + length
    for inner in range(at, at + 14):
        yield inner, 1, "big"


def _tiff_fields(data: bytes) -> _Fields:
    order = "little" if data[:2] == b"II" else "big"
    big = data[2] == 43
    read = lambda at, width: int.from_bytes(data[at : at + width], order)  # noqa: E731
    start = read(8, 8) if big else read(4, 4)
    yield (8, 8, order) if big else (4, 4, order)
    count, size, first = (read(start, 8), 20, start + 8) if big else (read(start, 2), 12, start + 2)
    yield start, first - start, order
    for at in range(first, first + count * size, size):
        yield from [(at, 2, order), (at + 2, 2, order), (at + 4, 8 if big else 4, order)]
        yield from [(at + size - (8 if big else 4), width, order) for width in (2, 4)] * 2
    yield first + count * size, 4, order


def _gif_fields(data: bytes) -> _Fields:
    frame = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    yield from ((at, 2, "little") for at in (6, 8, frame + 1, frame + 3, frame + 5, frame + 7))
    yield from ((at, 1, "little") for at in (10, 11, 12, frame, frame + 9, frame + 10, frame + 11))


def _bmp_fields(data: bytes) -> _Fields:
    yield from ((at, 4, "little") for at in (2, 10, 14, 18, 22, 30, 34, 38, 46, 50))
    yield from ((at, 2, "little") for at in (26, 28))


def _webp_fields(data: bytes) -> _Fields:
    yield 4, 4, "little"
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield at + 4, 4, "little"
        for inner in range(at, min(at + 8 + length, at + 34)):
            yield inner, 1, "little"
        at += 8 + length + length % 2


def _iso_fields(data: bytes) -> _Fields:
    """Yield sizes, names and first fields of the boxes, nested ones too."""
    boxes = [(0, len(data))]
    while boxes:
        at, end = boxes.pop()
        while at + 8 <= end:
            length = int.from_bytes(data[at : at + 4], "big")
            yield at, 4, "big"
            for inner in range(at + 4, min(at + length, at + 40)):
                yield inner, 1, "big"
            if data[at + 4 : at + 8] in {b"meta", b"iprp", b"ipco", b"iinf"}:
                boxes.append((at + {b"meta": 12, b"iinf": 14}.get(data[at + 4 : at + 8], 8), at + length))
            at += max(length, 8)


_FIELDS: dict[str, Callable[[bytes], _Fields]] = {
    **{"PNG": _png_fields, "JPEG": _jpeg_fields, "TIFF": _tiff_fields, "GIF": _gif_fields},
    **{"BMP": _bmp_fields, "WebP": _webp_fields, "ISO": _iso_fields},
}

_DAMAGED: dict[str, Callable[[random.Random, str], bytes]] = {
    **{"cut": _cut, "bits flipped": _flipped, "bytes overwritten": _overwritten},
    **{"spliced": _spliced, "ranges": _ranges, "wrong fields": _wrong_fields},
}
_GENERATED: dict[str, Callable[[random.Random], tuple[str, bytes]]] = {
    **{"metadata": garbage_metadata, "polyglot": polyglot, "bomb": bomb, "no image": no_image},
}
_SHARES = {
    **{"cut": 10, "bits flipped": 20, "bytes overwritten": 15, "spliced": 8, "ranges": 12, "wrong fields": 25},
    **{"metadata": 4, "polyglot": 3, "bomb": 2, "no image": 1},
}
