"""One small file per kind of image that people have, and what decoding it must give.

``python tests/imaging/formats.py`` prints the table of ``pipeline/imaging/README.md``; ``--write`` updates it.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image
from valid_images import png, saved

README = Path(__file__).resolve().parents[2] / "pipeline" / "imaging" / "README.md"

HEIGHT_PX, WIDTH_PX = 24, 40
_y, _x = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
RGB = np.stack([_x * 6, _y * 10, 255 - (_x + _y) * 4], axis=-1).astype(np.uint8)
GREY = np.ascontiguousarray(RGB[..., 0])
ALPHA = np.where(_x < 20, 255, 64).astype(np.uint8)
PHOTO, OTHER = Image.fromarray(RGB), Image.fromarray(np.ascontiguousarray(RGB[::-1]))
ON_WHITE = np.rint(RGB * (ALPHA / 255)[..., None] + (255 - ALPHA)[..., None])
LOSSY = 6
"""Mean difference that a lossy format may make, in levels."""
P3, PQ = (12, 13), (9, 16)
"""Code points: primaries, transfer function."""

HDR = "its colours are HDR (PQ), which has no defined white; save it as SDR, for instance in sRGB"
NOT_SUPPORTED = ", not a supported image; give a JPEG, PNG, WebP, TIFF, GIF, BMP, AVIF or HEIC file"


class Row(NamedTuple):
    form: str
    kind: str
    make: Callable[[], bytes]
    read: str
    """How it is read, or the sentence with which it is refused."""
    expected: np.ndarray | None
    """(H, W, 3) or (H, W); None if it is refused."""
    mean_error: float = 0.51


def unusable(form: str, why: str) -> str:
    return f"this {form} can't be used: {why}"


def unsupported(form: str, why: str) -> str:
    return f"this {form} is damaged or of an unsupported kind ({why}); save it again as an 8-bit PNG or JPEG"


def wide(samples: np.ndarray) -> np.ndarray:
    """Scale 8-bit samples to 16 bits."""
    return samples.astype(np.uint16) * 257


def tif(*pages: np.ndarray | tuple[np.ndarray, dict[str, Any]], **options: Any) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")) as writer:
        for page in pages:
            samples, own = page if isinstance(page, tuple) else (page, {})
            kind = "rgb" if samples.ndim == 3 else "minisblack"
            writer.write(samples, metadata=None, **{"photometric": kind, **options, **own})
    return stream.getvalue()


def png_samples(samples: np.ndarray, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    depth = 8 * samples.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{samples.itemsize}").tobytes() for row in samples)
    return png(samples.shape[1], samples.shape[0], depth, colour, rows, *chunks)


def png_bits(depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write the top bits of GREY as samples of 1, 2 or 4 bits."""
    bits = np.unpackbits(GREY[..., None], axis=-1)[..., :depth].reshape(HEIGHT_PX, -1)
    return png(
        WIDTH_PX, HEIGHT_PX, depth, colour, b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1)), *chunks
    )


def levels(depth: int) -> np.ndarray:
    return np.rint((GREY >> (8 - depth)) * (255 / (2**depth - 1)))


def light(gamma: float) -> np.ndarray:
    """Return RGB with an exponent ``gamma`` as sRGB."""
    return as_srgb((RGB / 255) ** gamma)


def as_srgb(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) * 255  # IEC 61966-2-1


def from_p3() -> np.ndarray:
    """Return RGB with the primaries of Display P3 as sRGB (CSS Color 4, section 18)."""
    matrix = np.array([[1.2249402, -0.2249402, 0], [-0.0420570, 1.0420570, 0], [-0.0196376, -0.0786361, 1.0982736]])
    samples = RGB / 255
    linear = np.where(samples <= 0.04045, samples / 12.92, ((samples + 0.055) / 1.055) ** 2.4)
    return as_srgb(linear @ matrix.T)


def chunk(name: bytes, *numbers: int) -> tuple[bytes, bytes]:
    return name, struct.pack(f">{len(numbers)}I", *numbers)


P3_CHROMATICITIES = chunk(b"cHRM", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
INKS = np.dstack([255 - RGB, np.zeros_like(GREY)])
CMYK = Image.fromarray(INKS, "CMYK")


def without_adobe(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def exif(orientation: int = 1, colour_space: int = 1) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    block.get_ifd(0x8769)[0xA001] = colour_space
    return block.tobytes()


def jpegs() -> Iterator[Row]:
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(RGB, 1)))
    twelve = saved(PHOTO, "JPEG")
    twelve = twelve.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    yield Row(
        "JPEG", "8 bit, YCbCr, baseline or progressive", lambda: saved(PHOTO, "JPEG", progressive=True), "as it is", RGB, LOSSY
    )
    yield Row("JPEG", "8 bit, RGB", lambda: saved(PHOTO, "JPEG", keep_rgb=True), "as it is", RGB, LOSSY)
    yield Row(
        "JPEG", "8 bit, grey", lambda: saved(PHOTO.convert("L"), "JPEG"), "as it is", np.asarray(PHOTO.convert("L")), LOSSY
    )
    yield Row(
        "JPEG",
        "8 bit, CMYK",
        lambda: saved(CMYK, "JPEG"),
        "255 is no ink (Adobe); by the profile, or R = (255 - C)(255 - K) / 255",
        RGB,
        LOSSY,
    )
    yield Row(
        "JPEG",
        "8 bit, CMYK without Adobe's marker",
        lambda: without_adobe(saved(CMYK, "JPEG")),
        unusable("JPEG", "its inks lack Adobe's marker, so that full and no ink can't be told apart; save it as RGB"),
        None,
    )
    yield Row("JPEG", "12 bit", lambda: twelve, unsupported("JPEG", "cannot handle 12-bit layers"), None)
    yield Row(
        "JPEG", "orientation in EXIF or XMP", lambda: saved(turned, "JPEG", exif=exif(orientation=6)), "upright", RGB, LOSSY
    )
    yield Row(
        "JPEG",
        "colour space in EXIF",
        lambda: saved(PHOTO, "JPEG", exif=exif(colour_space=0xFFFF)),
        "sRGB, as in browsers",
        RGB,
        LOSSY,
    )
    yield Row(
        "JPEG",
        "several pictures (MPO, gain map), thumbnail in EXIF",
        lambda: saved(PHOTO, "MPO", save_all=True, append_images=[OTHER]),
        "the first picture",
        RGB,
        LOSSY,
    )


def pngs() -> Iterator[Row]:
    key = (b"tRNS", struct.pack(">HHH", *RGB[3, 5]))
    keyed = RGB.copy()
    keyed[(RGB[3, 5] == RGB).all(axis=-1)] = 255
    for depth in (1, 2, 4):
        yield Row("PNG", f"{depth} bit, grey", lambda depth=depth: png_bits(depth, 0), "as it is", levels(depth))
    palette = (b"PLTE", bytes(RGB[0, ::3][:16].tobytes()).ljust(48, b"\0"))
    colours = np.frombuffer(palette[1], np.uint8).reshape(16, 3)
    yield Row("PNG", "1 to 8 bit, palette", lambda: png_bits(4, 3, palette), "as it is", colours[GREY >> 4])
    seen = colours[GREY >> 4].copy()
    seen[GREY >> 4 == 2] = 255
    yield Row(
        "PNG", "palette, tRNS", lambda: png_bits(4, 3, palette, (b"tRNS", b"\xff\xff\0")), "transparency over white", seen
    )
    yield Row("PNG", "8 bit, grey", lambda: png_samples(GREY, 0), "as it is", GREY)
    yield Row("PNG", "8 bit, RGB", lambda: png_samples(RGB, 2), "as it is", RGB)
    yield Row("PNG", "8 bit, RGB, tRNS", lambda: png_samples(RGB, 2, key), "transparency over white", keyed)
    yield Row(
        "PNG",
        "8 bit, grey and alpha",
        lambda: png_samples(np.dstack([GREY, ALPHA]), 4),
        "transparency over white",
        np.rint(GREY * (ALPHA / 255) + 255 - ALPHA),
    )
    yield Row("PNG", "8 bit, RGBA", lambda: png_samples(np.dstack([RGB, ALPHA]), 6), "transparency over white", ON_WHITE)
    yield Row("PNG", "16 bit, grey", lambda: png_samples(wide(GREY), 0), "rounded to 8 bits", GREY)
    yield Row("PNG", "16 bit, RGB", lambda: png_samples(wide(RGB), 2), "the upper 8 bits", RGB)
    yield Row(
        "PNG",
        "16 bit, RGBA",
        lambda: png_samples(wide(np.dstack([RGB, ALPHA])), 6),
        "the upper 8 bits, transparency over white",
        ON_WHITE,
    )
    yield Row(
        "PNG", "APNG", lambda: saved(PHOTO, "PNG", save_all=True, append_images=[OTHER]), "the default picture (IDAT)", RGB
    )
    yield Row(
        "PNG",
        "gAMA",
        lambda: png_samples(RGB, 2, chunk(b"gAMA", 100_000)),
        "converted to sRGB; within 5 % of 0.45455 it is sRGB",
        light(1.0),
        1.5,
    )
    yield Row(
        "PNG",
        "gAMA and cHRM",
        lambda: png_samples(RGB, 2, chunk(b"gAMA", 45_455), P3_CHROMATICITIES),
        "converted to sRGB",
        from_p3(),
        1.5,
    )
    yield Row("PNG", "cHRM without gAMA", lambda: png_samples(RGB, 2, P3_CHROMATICITIES), "sRGB, as in browsers", RGB)
    yield Row(
        "PNG", "sRGB besides gAMA and cHRM", lambda: png_samples(RGB, 2, chunk(b"gAMA", 100_000), (b"sRGB", b"\0")), "sRGB", RGB
    )
    yield Row(
        "PNG",
        "cICP",
        lambda: png_samples(RGB, 2, chunk(b"gAMA", 100_000), (b"cICP", bytes([*P3, 0, 1]))),
        "converted to sRGB",
        from_p3(),
        1.5,
    )
    yield Row(
        "PNG", "cICP of HDR (PQ, HLG)", lambda: png_samples(RGB, 2, (b"cICP", bytes([*PQ, 0, 1]))), unusable("PNG", HDR), None
    )
    yield Row(
        "PNG",
        "damaged or large metadata",
        lambda: png_samples(RGB, 2, (b"iCCP", b"none"), (b"gAMA", b"1"), (b"zTXt", b"key")),
        "left out",
        RGB,
    )


def webps() -> Iterator[Row]:
    clear = Image.fromarray(np.dstack([RGB, ALPHA]))
    lossless = {"lossless": True, "exact": True}
    small = saved(PHOTO, "WEBP", save_all=True, append_images=[OTHER], **lossless)
    yield Row("WebP", "lossy", lambda: saved(PHOTO, "WEBP"), "as it is", RGB, LOSSY)
    yield Row("WebP", "lossless", lambda: saved(PHOTO, "WEBP", **lossless), "as it is", RGB)
    yield Row("WebP", "alpha", lambda: saved(clear, "WEBP", **lossless), "transparency over white", ON_WHITE)
    yield Row("WebP", "animated", lambda: small, "the first frame, on its canvas", RGB)


def tiffs() -> Iterator[Row]:
    separate = {"planarconfig": "separate"}
    rgb_planes, ink_planes = np.moveaxis(RGB, -1, 0), np.moveaxis(INKS, -1, 0)
    straight, multiplied = {"extrasamples": ["unassalpha"]}, {"extrasamples": ["assocalpha"]}
    black = Image.fromarray(GREY).convert("1")
    faded = np.rint(RGB * (ALPHA / 255)[..., None]).astype(np.uint8)
    reduced, page = (RGB[::4, ::4], {"subfiletype": 1}), (RGB, {})
    mode = unsupported("TIFF", "unknown pixel mode")
    white = "which have no defined white; save it with unsigned 8 or 16 bits per channel"
    yield Row(
        "TIFF",
        "1 bit, also fax",
        lambda: saved(black, "TIFF", compression="group4"),
        "as it is",
        np.asarray(black.convert("L")),
    )
    yield Row("TIFF", "8 bit, grey", lambda: tif(GREY), "as it is", GREY)
    yield Row("TIFF", "8 bit, grey, white is 0", lambda: tif(255 - GREY, photometric="miniswhite"), "as it is", GREY)
    yield Row("TIFF", "16 bit, grey", lambda: tif(wide(GREY), byteorder=">"), "rounded to 8 bits", GREY)
    yield Row(
        "TIFF",
        "8 bit, palette",
        lambda: saved(PHOTO.quantize(16), "TIFF"),
        "as it is",
        np.asarray(PHOTO.quantize(16).convert("RGB")),
    )
    yield Row("TIFF", "8 bit, RGB", lambda: tif(RGB, compression="zlib", predictor=True), "as it is", RGB)
    yield Row(
        "TIFF",
        "8 bit, RGB, straight alpha",
        lambda: tif(np.dstack([RGB, ALPHA]), **straight),
        "transparency over white",
        ON_WHITE,
    )
    yield Row(
        "TIFF",
        "8 bit, RGB, premultiplied alpha",
        lambda: tif(np.dstack([faded, ALPHA]), **multiplied),
        "transparency over white",
        ON_WHITE,
        1,
    )
    yield Row(
        "TIFF",
        "8 bit, RGB, unspecified fourth sample",
        lambda: tif(np.dstack([RGB, ALPHA]), extrasamples=["unspecified"]),
        "without that sample",
        RGB,
    )
    yield Row("TIFF", "16 bit, RGB", lambda: tif(wide(RGB), byteorder=">"), "the upper 8 bits", RGB)
    yield Row("TIFF", "8 bit, planes", lambda: tif(rgb_planes, **separate), "as it is", RGB)
    yield Row(
        "TIFF",
        "16 bit, compressed planes",
        lambda: tif(wide(rgb_planes), compression="zlib", **separate),
        "the upper 8 bits",
        RGB,
    )
    for name, planes in (("RGB", rgb_planes), ("CMYK", ink_planes)):
        yield Row(
            "TIFF",
            f"16 bit, uncompressed planes, {name}",
            lambda planes=planes, name=name: tif(wide(planes), photometric="rgb" if name == "RGB" else "separated", **separate),
            unusable("TIFF", "it stores 16-bit samples in separate planes; save it again with interleaved samples"),
            None,
        )
    several = "it stores samples other than RGB and CMYK in separate planes; save it again with interleaved samples"
    yield Row(
        "TIFF",
        "planes of grey and alpha",
        lambda: tif(np.stack([GREY, ALPHA]), photometric="minisblack", compression="zlib", **separate, **straight),
        unusable("TIFF", several),
        None,
    )
    yield Row(
        "TIFF", "planes of CIELab", lambda: tif(rgb_planes, photometric="cielab", **separate), unusable("TIFF", several), None
    )
    yield Row(
        "TIFF",
        "8 bit, CMYK",
        lambda: tif(INKS, photometric="separated"),
        "255 is full ink; by the profile, or the formula of JPEG",
        RGB,
    )
    yield Row("TIFF", "16 bit, CMYK", lambda: tif(wide(INKS), photometric="separated"), "the upper 8 bits", RGB)
    yield Row(
        "TIFF",
        "inks other than CMYK (InkSet 2)",
        lambda: tif(INKS, photometric="separated", extratags=[(332, 3, 1, 2, True)]),
        unusable("TIFF", "its inks are not cyan, magenta, yellow and black; save it as RGB"),
        None,
    )
    yield Row("TIFF", "8 bit, YCbCr, JPEG inside", lambda: saved(PHOTO, "TIFF", compression="jpeg"), "as it is", RGB, LOSSY)
    yield Row(
        "TIFF",
        "16 bit, grey and alpha",
        lambda: tif(wide(np.dstack([GREY, ALPHA])), photometric="minisblack", **straight),
        mode,
        None,
    )
    for kind in (np.int8, np.int16):
        yield Row(
            "TIFF",
            f"{np.dtype(kind).itemsize * 8} bit, signed",
            lambda kind=kind: tif(GREY.astype(kind)),
            unusable("TIFF", f"its samples are signed numbers, {white}"),
            None,
        )
    yield Row(
        "TIFF",
        "32 bit, grey",
        lambda: tif(GREY.astype(np.uint32)),
        unusable("TIFF", f"its samples are 32-bit or signed integer numbers, {white}"),
        None,
    )
    yield Row(
        "TIFF",
        "float, grey",
        lambda: tif(GREY.astype(np.float32)),
        unusable("TIFF", f"its samples are float numbers, {white}"),
        None,
    )
    yield Row("TIFF", "32 bit or float, RGB", lambda: tif(RGB.astype(np.float32)), mode, None)
    yield Row("TIFF", "tiles", lambda: tif(RGB, tile=(16, 16)), "as it is", RGB)
    yield Row("TIFF", "BigTIFF", lambda: tif(RGB, bigtiff=True), "as it is", RGB)
    yield Row("TIFF", "several pages", lambda: tif(RGB, RGB[::-1]), "the first page", RGB)
    yield Row("TIFF", "reduced page or mask before the full page", lambda: tif(reduced, page), "the first full page", RGB)
    yield Row(
        "TIFF", "pyramid: reduced pages behind the full page", lambda: tif((RGB, {"subifds": 1}), reduced), "the full page", RGB
    )
    yield Row(
        "TIFF",
        "preview whose full picture is nested (NEF, ARW, DNG)",
        lambda: tif((reduced[0], {"subfiletype": 1, "subifds": 1}), page),
        unusable("TIFF", "its pages hold only a preview, as in a camera's raw file; export it as PNG or JPEG"),
        None,
    )


def bitmaps() -> Iterator[Row]:
    palette = PHOTO.quantize(16)
    clear = Image.merge("RGBA", (*PHOTO.split(), Image.fromarray(ALPHA)))
    five = (RGB.astype(np.uint16) >> 3 << (10, 5, 0)).sum(axis=-1).astype("<u2")[::-1].tobytes()
    of_five = np.rint((RGB >> 3) * (255 / 31))
    seen = np.asarray(palette.convert("RGB")).copy()
    seen[np.asarray(palette) == 3] = 255

    def bmp(depth: int, body: bytes, height: int = HEIGHT_PX) -> bytes:
        head = struct.pack("<IiiHHIIiiII", 40, WIDTH_PX, height, 1, depth, 0, len(body), 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + head + body

    masks = struct.pack("<3I", 0x3FF00000, 0xFFC00, 0x3FF)
    odd = bytearray(bmp(32, masks + bytes(4 * WIDTH_PX * HEIGHT_PX)))
    odd[30], odd[10] = 3, 66
    yield Row("GIF", "palette", lambda: saved(palette, "GIF"), "as it is", np.asarray(palette.convert("RGB")))
    yield Row("GIF", "transparency", lambda: saved(palette, "GIF", transparency=3), "transparency over white", seen)
    yield Row(
        "GIF",
        "animated",
        lambda: saved(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        "the first frame, on its canvas",
        np.asarray(palette.convert("RGB")),
    )
    yield Row(
        "BMP",
        "1 to 8 bit, palette, also run lengths",
        lambda: saved(palette, "BMP"),
        "as it is",
        np.asarray(palette.convert("RGB")),
    )
    yield Row("BMP", "16 bit", lambda: bmp(16, five), "as it is", of_five, 1)
    yield Row("BMP", "24 bit, from top or bottom", lambda: bmp(24, RGB[..., ::-1].tobytes(), -HEIGHT_PX), "as it is", RGB)
    yield Row(
        "BMP", "32 bit", lambda: saved(clear, "BMP"), "the alpha of a V4 or V5 header over white; without one, opaque", RGB
    )
    yield Row("BMP", "other bit masks", lambda: bytes(odd), unsupported("BMP", "Unsupported BMP bitfields layout"), None)


def avif(image: Image.Image, code: tuple[int, int] | None = None, **options: Any) -> bytes:
    data = bytearray(saved(image, "AVIF", quality=95, subsampling="4:4:4", speed=10, max_threads=1, **options))
    if code:
        struct.pack_into(">HH", data, data.index(b"colrnclx") + 8, *code)
    return bytes(data)


def heic(*images: Image.Image, thumbnails: bool = False, **options: Any) -> bytes:
    import pillow_heif

    file = pillow_heif.HeifFile()
    for image in images:
        file.add_from_pillow(image)
        if thumbnails:
            file[len(file) - 1].info["thumbnails"] = [32]
    stream = io.BytesIO()
    file.save(stream, quality=95, chroma=444, **options)
    return stream.getvalue()


def isos() -> Iterator[Row]:
    clear = Image.fromarray(np.dstack([RGB, ALPHA]))
    large = PHOTO.resize((320, 192))
    false = bytearray(avif(PHOTO))
    struct.pack_into(">II", false, false.index(b"ispe") + 8, 9_900, 9_900)
    p3, pq = (dict(zip(("color_primaries", "transfer_characteristics"), code, strict=True)) for code in (P3, PQ))
    yield Row("AVIF", "RGB", lambda: avif(PHOTO), "as it is", RGB, LOSSY)
    yield Row("AVIF", "grey", lambda: avif(Image.fromarray(GREY)), "as it is", GREY, LOSSY)
    yield Row("AVIF", "alpha", lambda: avif(clear), "transparency over white", ON_WHITE, LOSSY)
    yield Row("AVIF", "animated", lambda: avif(PHOTO, save_all=True, append_images=[OTHER]), "the first frame", RGB, LOSSY)
    yield Row("AVIF", "code points of colours (nclx)", lambda: avif(PHOTO, P3), "converted to sRGB", from_p3(), LOSSY)
    yield Row("AVIF", "HDR (PQ, HLG)", lambda: avif(PHOTO, PQ), unusable("AVIF", HDR), None)
    yield Row(
        "AVIF",
        "coded picture of another size than claimed",
        lambda: bytes(false),
        unusable("AVIF", "its header claims a picture of 9,900 x 9,900 pixels, but 40 x 24 are stored; export it again"),
        None,
    )
    yield Row("HEIC", "RGB", lambda: heic(PHOTO), "as it is", RGB, LOSSY)
    yield Row("HEIC", "grey", lambda: heic(Image.fromarray(GREY)), "as it is", GREY, LOSSY)
    yield Row("HEIC", "12 bit, grey", lambda: heic(Image.fromarray(wide(GREY))), "scaled to 8 bits", GREY, LOSSY)
    yield Row("HEIC", "alpha", lambda: heic(clear), "transparency over white", ON_WHITE, LOSSY)
    yield Row("HEIC", "several pictures", lambda: heic(OTHER, PHOTO, primary_index=1), "the primary picture", RGB, LOSSY)
    yield Row("HEIC", "thumbnails", lambda: heic(large, thumbnails=True), "the full picture", np.asarray(large), LOSSY)
    yield Row("HEIC", "code points of colours (nclx)", lambda: heic(PHOTO, **p3), "converted to sRGB", from_p3(), LOSSY)
    yield Row("HEIC", "HDR (PQ, HLG)", lambda: heic(PHOTO, **pq), unusable("HEIC", HDR), None)


def others() -> Iterator[Row]:
    starts = {
        "JPEG XL": [("JXL", b"\xff\x0a")],
        "JPEG 2000": [("JP2", saved(PHOTO, "JPEG2000"))],
        "a camera's raw file": [
            ("CR2", b"II*\x00\x10\0\0\0CR\x02\0"),
            ("CR3", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
            ("RAF", b"FUJIFILMCCD-RAW 0201"),
            ("ORF", b"IIRO\x08\0\0\0"),
            ("RW2", b"IIU\0\x18\0\0\0"),
        ],
        "a Photoshop file": [("PSD", b"8BPS\0\x01")],
        "a GIMP file": [("XCF", b"gimp xcf v011\0")],
        "OpenEXR": [("EXR", b"v/1\x01\x02\0\0\0")],
        "a PDF": [("PDF", saved(PHOTO, "PDF"))],
        "an SVG drawing": [("SVG", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')],
        "PostScript": [("EPS", saved(PHOTO, "EPS"))],
        "an icon": [("ICO", saved(PHOTO, "ICO"))],
        "a video or another ISO media file": [("MP4, MOV", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")],
        "an HTML page": [("HTML", b"<!doctype html><p>Not found")],
    }
    for words, files in starts.items():
        for name, data in files:
            yield Row(name, "all", lambda data=data: data, f"the bytes are {words}{NOT_SUPPORTED}", None)


ROWS = [*jpegs(), *pngs(), *webps(), *tiffs(), *bitmaps(), *isos(), *others()]


def table() -> str:
    lines = ["| format | file | read as |", "|---|---|---|"]
    for row in ROWS:
        read = row.read if row.expected is not None else f"refused: *{row.read.removesuffix(NOT_SUPPORTED)}*"
        lines.append(f"| {row.form} | {row.kind} | {read} |")
    return "\n".join(lines)


def page() -> str:
    """Return the README with the table of these rows."""
    before, _, rest = README.read_text(encoding="utf-8").partition("<!-- rows -->\n")
    _, _, after = rest.partition("<!-- end of rows -->")
    return f"{before}<!-- rows -->\n{table()}\n<!-- end of rows -->{after}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        README.write_text(page(), encoding="utf-8")
    else:
        print(page())
