"""Hostile files: decompression bombs, polyglots, damaged metadata and files that are no image."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache

from valid_images import SRGB, png, png_chunk, rotated_exif, tiff, valid_images

HUGE = (60_000, 65_535, 1_000_001, 2**31 - 1, 2**32 - 1)
LONG = 20_000
"""Repetitions in a bomb: few enough for a test, enough to be measurable."""


def bomb(rng: random.Random) -> tuple[str, bytes]:
    """Return a name and a few kilobytes that need gigabytes or hours to decode."""
    make = rng.choice(_BOMBS)
    return make.__name__.replace("_", " ").strip(), make(rng)


def _png_of_zeros(rng: random.Random) -> bytes:
    """Valid, and compressed by a factor of a thousand."""
    width = rng.choice((900, 5_000))
    return png(width, width, 8, 0, bytes((width + 1) * width))


def _png_header(rng: random.Random) -> bytes:
    return png(rng.choice(HUGE), rng.choice(HUGE), rng.choice((1, 8, 16)), rng.choice((0, 2, 3, 6)), bytes(100))


def _png_metadata(rng: random.Random) -> bytes:
    packed = zlib.compress(bytes(rng.choice((900_000, 3_000_000))), 9)
    name, head = rng.choice(((b"zTXt", b"key\0\0"), (b"iTXt", b"key\0\1\0\0\0"), (b"iCCP", b"key\0\0")))
    return png(1, 1, 8, 0, b"\0\0", *[(name, head + packed)] * rng.randint(1, 9))


def _png_chunks(rng: random.Random) -> bytes:
    parts = valid_images()["PNG grey"]
    at = rng.choice((33, len(parts) - 12))
    return parts[:at] + png_chunk(rng.choice((b"abCd", b"tEXt", b"IDAT")), b"") * LONG + parts[at:]


def _jpeg_scans(rng: random.Random) -> bytes:
    """Empty scans of ten bytes each. The decoder walks the complete picture for each."""
    data = _resized(valid_images()[rng.choice(("JPEG baseline", "JPEG progressive"))], rng.choice((16, 900)))
    start = data.index(b"\xff\xda")
    alone = b"".join(b"\xff\xda\x00\x08\x01" + bytes([part, 0x11 if part > 1 else 0, 0, 63, 0]) for part in (1, 2, 3))
    first = alone if rng.random() < 0.5 else data[start:-2]
    return data[:start] + first + alone[:10] * LONG + b"\xff\xd9"


def _jpeg_size(rng: random.Random) -> bytes:
    return _resized(
        valid_images()[rng.choice(("JPEG baseline", "JPEG progressive", "JPEG CMYK"))], rng.choice((0, 65_500, 9_000))
    )


def _resized(data: bytes, side_px: int) -> bytes:
    """Replace the width and height of a JPEG."""
    frame = max(data.find(b"\xff\xc0\x00"), data.find(b"\xff\xc2\x00")) + 5
    return data[:frame] + struct.pack(">HH", side_px, side_px) + data[frame + 4 :]


def _tiff_tile(rng: random.Random) -> bytes:
    side, compress = rng.choice((20_000, 60_000, 1_000_000)), rng.random() < 0.7
    body = zlib.compress(bytes(900_000), 9) if compress else bytes(100)
    size = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = [(259, 3, 1, 8 if compress else rng.choice((1, 5, 32773))), (324, 4, 1, 200), (325, 4, 1, len(body))]
    return tiff(*size, *place, (322, 4, 1, side), (323, 4, 1, rng.choice((16, side))), body=body)


def _tiff_strips(rng: random.Random) -> bytes:
    """Many strips at the same offset."""
    size = [(256, 4, 1, 9), (257, 4, 1, rng.choice((9, LONG))), (258, 3, 1, 8), (259, 3, 1, rng.choice((1, 8)))]
    place = [(262, 3, 1, 1), (273, 4, LONG, 200), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, LONG, 200)]
    return tiff(*size, *place, body=struct.pack("<I", 200) * LONG)


def _tiff_size(rng: random.Random) -> bytes:
    width, height, samples = rng.choice(HUGE), rng.choice((1, 9, *HUGE)), rng.choice((1, 3, 4, 65_535))
    size = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, rng.choice((1, 5, 7, 8)))]
    place = [(262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, 50)]
    return tiff(*size, *place, body=bytes(50))


def _tags(rng: random.Random) -> bytes:
    """A directory in which each tag refers to the complete file."""
    count = rng.choice((1_000, 4_000))
    return tiff(*((1_000 + number, 7, 12 * count, 0) for number in range(count)))


def _tags_in_tiff(rng: random.Random) -> bytes:
    size = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    place = [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 1)]
    return tiff(*size, *place, *((1_000 + number, 7, 40_000, 0) for number in range(4_000)))


def _tags_in_exif(rng: random.Random) -> bytes:
    return with_metadata(rng, exif=_tags(rng))


def _gif_frame(rng: random.Random) -> bytes:
    data = bytearray(valid_images()["GIF one"])
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    struct.pack_into("<HH", data, rng.choice((6, at + 5)), *rng.choices((0, 900, 9_000, 65_535), k=2))
    return bytes(data)


def _gif_comments(rng: random.Random) -> bytes:
    data = valid_images()["GIF one"]
    at = data.index(b"\x21")
    comment = rng.choice((b"\x21\xfe\x01a\0", b"\x21\xfe" + b"\x02aa" * 9 + b"\0", b"\x21\xf9\x04\0\0\0\0\0"))
    return data[:at] + comment * LONG + data[at:]


def _webp_canvas(rng: random.Random) -> bytes:
    data = valid_images()["WebP animated"]
    return data[:24] + rng.choice((999, 11_999, 16_382)).to_bytes(3, "little") * 2 + data[30:]


def _bmp_size(rng: random.Random) -> bytes:
    data = valid_images()[rng.choice(("BMP plain", "BMP palette", "BMP runs"))]
    return data[:18] + struct.pack("<II", rng.choice((900, *HUGE)), rng.choice((900, *HUGE))) + data[26:]


def _bmp_runs(rng: random.Random) -> bytes:
    """Endless line ends, jumps and single pixels."""
    head = bytearray(valid_images()["BMP runs"][:1078])
    struct.pack_into("<ii", head, 18, 900, 900)
    return bytes(head) + rng.choice((b"\0\0", b"\x01\x05", b"\0\x02\x01\x01", b"\x01\x05\0\0")) * LONG


def _profile_of_stages(rng: random.Random) -> bytes:
    """A table of many stages at the same offset: eight bytes each, applied to 36,000 colours each."""
    return with_metadata(rng, icc=stages(LONG))


def stages(count: int) -> bytes:
    """The sRGB profile with a multi-process table of ``count`` identity stages."""
    identity = b"matf" + bytes(4) + struct.pack(">HH12f", 3, 3, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    table = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, count)
    table += struct.pack(">II", 16 + 8 * count, len(identity)) * count + identity
    tags = int.from_bytes(SRGB[128:132], "big")
    entries = bytearray(SRGB[132 : 132 + 12 * tags])
    for at in range(4, len(entries), 12):
        struct.pack_into(">I", entries, at, int.from_bytes(entries[at : at + 4], "big") + 12)
    own = b"D2B0" + struct.pack(">II", len(SRGB) + 12, len(table))
    body = SRGB[132 + 12 * tags :] + table
    profile = SRGB[8:128] + struct.pack(">I", tags + 1) + own + entries + body
    return struct.pack(">I", len(profile) + 8) + SRGB[4:8] + profile


_BOMBS: tuple[Callable[[random.Random], bytes], ...] = (
    *(_png_of_zeros, _png_header, _png_metadata, _png_chunks, _jpeg_scans, _jpeg_size, _tiff_tile, _tiff_strips, _tiff_size),
    *(_tags_in_tiff, _tags_in_exif, _gif_frame, _gif_comments, _webp_canvas, _bmp_size, _bmp_runs, _profile_of_stages),
)


def with_metadata(rng: random.Random, exif: bytes = b"", icc: bytes = b"") -> bytes:
    """Put these blocks into a small image, unchecked."""
    form = rng.choice(("JPEG", "PNG", "WebP"))
    if form == "PNG":
        data = valid_images()["PNG 8 bit"]
        blocks = png_chunk(b"eXIf", exif) if exif else b""
        blocks += png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc)) if icc else b""
        return data[:33] + blocks + data[33:]
    if form == "JPEG":
        parts = [(b"\xff\xe1", b"Exif\0\0" + exif[:65_000])] if exif else []
        pieces = [icc[at : at + 65_000] for at in range(0, len(icc), 65_000)]
        parts += [(b"\xff\xe2", b"ICC_PROFILE\0" + bytes([n, len(pieces)]) + piece) for n, piece in enumerate(pieces, 1)]
        segments = b"".join(mark + struct.pack(">H", len(body) + 2) + body for mark, body in parts)
        data = valid_images()["JPEG baseline"]
        return data[:2] + segments + data[2:]
    pixels = valid_images()["WebP lossy"][12:]
    flags = 0x20 * bool(icc) | 0x08 * bool(exif)
    canvas = b"VP8X" + struct.pack("<II", 10, flags) + (25).to_bytes(3, "little") + (18).to_bytes(3, "little")
    body = canvas + _riff(b"ICCP", icc) * bool(icc) + pixels + _riff(b"EXIF", exif) * bool(exif)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def garbage_metadata(rng: random.Random) -> tuple[str, bytes]:
    """EXIF or a colour profile: noise, a damaged valid one, or recursive directories."""
    noise = rng.choice((b"", b"Exif\0\0", b"MM\0*\0\0\0\x08", b"II*\0")) + rng.randbytes(rng.randint(1, 400))
    what = rng.choice(("noise as EXIF", "noise as profile", "damaged EXIF", "damaged profile", "nested directories"))
    if what == "nested directories":
        return what, nested_directories(rng)
    blocks = {"EXIF": _damaged(rng, rotated_exif()[6:]), "profile": _damaged(rng, SRGB)}
    how, block = what.split()[0], what.split()[-1]
    body = noise if how == "noise" else blocks[block]
    return what, with_metadata(rng, exif=body) if block == "EXIF" else with_metadata(rng, icc=body)


def _damaged(rng: random.Random, block: bytes) -> bytes:
    damaged = bytearray(block)
    for _ in range(rng.randint(1, 6)):
        damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(damaged)


def nested_directories(rng: random.Random) -> bytes:
    """Nested directories, hundreds deep or in a cycle, as a file's own or as EXIF."""
    depth, tag = rng.choice((1, 3, 400)), rng.choice((330, 34665, 34853, 40965))
    at = 8
    out = b"II*\0" + struct.pack("<I", at)
    for number in range(depth):
        size = [(256, 3, 1, 5), (257, 3, 1, 5), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 25)]
        length = 2 + 12 * (len(size) + 1) + 4
        follow = at + length if number < depth - 1 else rng.choice((0, 8, at))
        tags = sorted([*size, (tag, rng.choice((4, 13)), 1, follow)])
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *each) for each in tags) + struct.pack("<I", follow)
        at += length
    return out if rng.random() < 0.5 else with_metadata(rng, exif=out)


@lru_cache(maxsize=1)
def other_files() -> tuple[bytes, ...]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr(zipfile.ZipInfo("photo.jpg"), valid_images()["JPEG baseline"])
    pdf = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    page = b"<!doctype html><html><body><script>alert(1)</script></body></html>"
    return archive.getvalue(), pdf, page


def polyglot(rng: random.Random) -> tuple[str, bytes]:
    """Two files in one: an archive, a document, a page or another image before, behind or inside an image."""
    images = list(valid_images().values())
    image, other = rng.choice(images), rng.choice((*other_files(), rng.choice(images)))
    if rng.random() < 0.3 and image[:2] == b"\xff\xd8":
        return "within", image[:2] + b"\xff\xfe" + struct.pack(">H", len(other) + 2) + other + image[2:]
    return ("before", other + image) if rng.random() < 0.5 else ("behind", image + other)


_SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
_ENTITIES = b'<!DOCTYPE a [<!ENTITY b "' + b"c" * 99 + b'"><!ENTITY d "' + b"&b;" * 99 + b'">]><svg>&d;</svg>'
_MAGIC = (
    *(
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        b"\x89PNG\r\n\x1a\n",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"GIF87a",
        b"GIF89a",
    ),
    *(b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+", b"BM"),
    *(b"RIFF\0\1\0\0WEBP", b"RIFF\x40\0\0\0WEBPVP8L", b"RIFF\x40\0\0\0WEBPVP8X"),
    *(b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1"),
    *(b"\0\0\0\x14ftypavis", b"\0\0\0\x18ftypmp42"),
)


def no_image(rng: random.Random) -> tuple[str, bytes]:
    """No image: nothing, a byte, text, a pickle, a drawing, or noise behind an image's first bytes."""
    words = rng.choices(("alpha", "http://[", "\u00fc", "\0", "{}", "%s%n"), k=rng.randint(1, 60))
    files = {
        "nothing": b"",
        "a byte": rng.randbytes(1),
        "zeros": bytes(rng.randint(1, 5000)),
        "text": " ".join(words).encode(),
        "a pickle": pickle.dumps({"image": [rng.random()], "call": print}),
        "a drawing": _SVG,
        "entities": _ENTITIES,
        **dict(zip(("an archive", "a document", "a page"), other_files(), strict=True)),
        **{f"noise behind {magic!r}": magic + rng.randbytes(rng.randint(0, 400)) for magic in rng.sample(_MAGIC, 9)},
    }
    return rng.choice(list(files.items()))
