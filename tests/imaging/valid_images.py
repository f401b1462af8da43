"""Small valid images of every supported kind, to be damaged; a few kilobytes each at most."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

WIDTH_PX, HEIGHT_PX = 26, 19
_DATED = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SRGB = _DATED[:24] + bytes(12) + _DATED[36:]
"""An sRGB profile without its date, so that the same seed gives the same files."""


@lru_cache(maxsize=1)
def valid_images() -> dict[str, bytes]:
    """Images by name. The first word of a name is the format."""
    y, x = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    ramps = np.stack([x * 9, y * 13, (x + y) * 5], axis=-1) + np.random.default_rng(7).integers(0, 9, (HEIGHT_PX, WIDTH_PX, 3))
    picture = Image.fromarray(ramps.astype(np.uint8))
    return {**_jpeg(picture), **_png(picture), **_webp(picture), **_tiff(picture), **_rest(picture), **_iso(picture)}


def saved(image: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, form, **options)
    return stream.getvalue()


def rotated_exif() -> bytes:
    """EXIF with a rotation by 90 degrees and nested directories."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    return exif.tobytes()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes], adam7: bool = False
) -> bytes:
    """Write a PNG. Each of ``rows`` begins with a filter byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, adam7)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in parts)


def tiff(*tags: tuple[int, int, int, int], body: bytes = b"", at: int = 200, after: int = 0) -> bytes:
    """Write a little-endian TIFF: tags as (tag, type, count, value), ``body`` at ``at``, the next directory at ``after``."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", after)
    return (b"II*\x00" + struct.pack("<I", 8) + directory).ljust(at, b"\0") + body


def _rows(samples: np.ndarray) -> bytes:
    """Return unfiltered rows of a PNG for (H, W) or (H, W, channels)."""
    return b"".join(b"\0" + row.tobytes() for row in samples)


def _jpeg(picture: Image.Image) -> dict[str, bytes]:
    return {
        "JPEG baseline": saved(picture, "JPEG"),
        "JPEG progressive": saved(picture, "JPEG", progressive=True, subsampling=0),
        "JPEG restart": saved(picture, "JPEG", restart_marker_blocks=1, optimize=True, comment=b"a comment"),
        "JPEG CMYK": saved(picture.convert("CMYK"), "JPEG"),
        "JPEG grey": saved(picture.convert("L"), "JPEG"),
        "JPEG rotated": saved(picture, "JPEG", exif=rotated_exif(), xmp=b"<x:xmpmeta tiff:Orientation='6'/>"),
        "JPEG profile": saved(picture, "JPEG", icc_profile=SRGB),
    }


def _png(picture: Image.Image) -> dict[str, bytes]:
    array = np.asarray(picture)
    wide = (array.astype(">u2") * 257).astype(">u2")
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]  # y, x, steps
    interlaced = b"".join(_rows(array[y::dy, x::dx]) for y, x, dy, dx in passes)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "words", zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>", zip=True)
    palette = picture.quantize(16)
    clear = picture.copy()
    clear.putalpha(picture.convert("L"))
    return {
        "PNG 8 bit": saved(picture, "PNG"),
        "PNG 16 bit": png(WIDTH_PX, HEIGHT_PX, 16, 2, _rows(wide), (b"tRNS", wide[0, 0].tobytes())),
        "PNG 16 bit grey": png(WIDTH_PX, HEIGHT_PX, 16, 0, _rows(wide[..., 0])),
        "PNG palette": saved(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "PNG interlaced": png(WIDTH_PX, HEIGHT_PX, 8, 2, interlaced, adam7=True),
        "PNG grey": saved(picture.convert("L"), "PNG", transparency=9),
        "PNG bilevel": saved(picture.convert("1"), "PNG"),
        "PNG alpha": saved(clear, "PNG", exif=rotated_exif()),
        "PNG animated": saved(picture, "PNG", save_all=True, append_images=[picture.rotate(90)]),
        "PNG profile": saved(picture, "PNG", icc_profile=SRGB, pnginfo=text),
    }


def _webp(picture: Image.Image) -> dict[str, bytes]:
    clear = picture.copy()
    clear.putalpha(picture.convert("L"))
    return {
        "WebP lossy": saved(picture, "WEBP"),
        "WebP lossless": saved(picture, "WEBP", lossless=True),
        "WebP alpha": saved(clear, "WEBP", exif=rotated_exif(), icc_profile=SRGB),
        "WebP animated": saved(picture, "WEBP", save_all=True, append_images=[picture.rotate(90), clear]),
    }


def _tiff(picture: Image.Image) -> dict[str, bytes]:
    compressed = {
        name: saved(picture, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    }
    tile = np.zeros((32, 32), np.uint8)
    tile[:HEIGHT_PX, :WIDTH_PX] = np.asarray(picture.convert("L"))
    packed = zlib.compress(tile.tobytes())
    size = [(256, 3, 1, WIDTH_PX), (257, 3, 1, HEIGHT_PX), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    place = [(259, 3, 1, 8), (322, 3, 1, 32), (323, 3, 1, 32), (324, 4, 1, 200), (325, 4, 1, len(packed))]
    return {
        **{f"TIFF {name}": data for name, data in compressed.items()},
        "TIFF plain": saved(picture, "TIFF", exif=rotated_exif()),
        "TIFF big": saved(picture, "TIFF", big_tiff=True),
        "TIFF fax": saved(picture.convert("1"), "TIFF", compression="group4"),
        "TIFF CMYK": saved(picture.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "TIFF LAB": saved(_lab(picture), "TIFF", icc_profile=b""),
        "TIFF 16 bit": saved(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "TIFF"),
        "TIFF pages": saved(picture, "TIFF", save_all=True, append_images=[picture.rotate(90), picture.convert("L")]),
        "TIFF tiles": tiff(*size, *place, body=packed),
        "TIFF profile": saved(picture, "TIFF", icc_profile=SRGB, compression="tiff_lzw"),
    }


def _lab(picture: Image.Image) -> Image.Image:
    lab = ImageCms.createProfile("LAB")
    moved = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert moved is not None
    return moved


def _rest(picture: Image.Image) -> dict[str, bytes]:
    palette = picture.quantize(64)
    runs = b"".join(
        b"\x05\x07\x00\x04\x01\x02\x03\x04\x00\x02\x03\x00" + bytes([WIDTH_PX - 12, 9, 0, 0]) for _ in range(HEIGHT_PX)
    )
    start = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH_PX, HEIGHT_PX, 1, 8, 1, len(runs) + 2, 0, 0, 256, 0)
    rle = b"BM" + struct.pack("<IHHI", start + len(runs) + 2, 0, 0, start) + header + bytes(range(256)) * 4 + runs + b"\0\1"
    return {
        "GIF one": saved(palette, "GIF", comment=b"a comment"),
        "GIF interlaced": saved(palette, "GIF", interlace=1, transparency=3),
        "GIF animated": saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)], loop=0, duration=9),
        "BMP plain": saved(picture, "BMP"),
        "BMP palette": saved(palette, "BMP"),
        "BMP bilevel": saved(picture.convert("1"), "BMP"),
        "BMP runs": rle,
    }


def _iso(picture: Image.Image) -> dict[str, bytes]:
    """AVIF and HEIC, if the installed libraries write them."""
    clear = picture.copy()
    clear.putalpha(picture.convert("L"))
    files = {}
    if "AVIF" in Image.SAVE:
        files["AVIF plain"] = saved(picture, "AVIF", speed=10, max_threads=1)
        files["AVIF alpha"] = saved(clear, "AVIF", speed=10, max_threads=1, exif=rotated_exif(), icc_profile=SRGB)
    try:
        import pillow_heif
    except ImportError:
        return files
    for name, image in (("HEIC plain", picture), ("HEIC alpha", clear)):
        stream = io.BytesIO()
        pillow_heif.from_pillow(image).save(stream, exif=rotated_exif())
        files[name] = stream.getvalue()
    return files
