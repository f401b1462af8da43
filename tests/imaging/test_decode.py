from __future__ import annotations

import contextlib
import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image
from valid_images import SRGB, png, saved, tiff, valid_images

import pipeline.imaging.decode
from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode, decode_preview
from pipeline.types import Pixels

LIMITS = Limits(max_pixels=2_000_000, max_bytes=4_000_000)
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
"""sRGB with the red and blue primaries swapped."""

Maker = Callable[[int, int], Pixels]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def heic(image: Image.Image | Pixels, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    pillow_heif.from_pillow(picture).save(stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("stripe_px", [1, 100, 1000, 10**6])
def test_stripes_join_without_a_seam(stripe_px: int, photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(37, 61)
    monkeypatch.setattr(pipeline.imaging.decode, "BLOCK_PX", 0)
    monkeypatch.setattr(pipeline.imaging.decode, "STRIPE_PX", stripe_px)
    np.testing.assert_array_equal(decode(saved(image, "PNG"), LIMITS), image)


def test_freed_memory_serves_the_next_image(photo: Maker) -> None:
    data = saved(photo(300, 400), "PNG")
    decode(data, LIMITS)
    Image.core.reset_stats()  # type: ignore[attr-defined]
    decode(data, LIMITS)
    stats = Image.core.get_stats()  # type: ignore[attr-defined]
    assert stats["reused_blocks"] > 0
    assert stats["allocated_blocks"] == 0


def test_lossless_formats_are_exact(photo: Maker) -> None:
    image = photo(37, 61)
    for form, options in (
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        *(("TIFF", {"compression": name}) for name in (None, "tiff_lzw", "tiff_adobe_deflate")),
    ):
        pixels = decode(saved(image, form, **options), LIMITS)
        np.testing.assert_array_equal(pixels, image, f"{form} {options}")
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable


def test_lossy_formats_are_close(photo: Maker) -> None:
    image = cv2.GaussianBlur(photo(96, 144), (0, 0), 1.5)
    files = {
        "baseline": saved(image, "JPEG", quality=95),
        "progressive": saved(image, "JPEG", quality=95, progressive=True),
        "4:4:4": saved(image, "JPEG", quality=95, subsampling=0),
        "WebP": saved(image, "WEBP", quality=95),
        "AVIF": saved(image, "AVIF", quality=95),
        "TIFF JPEG": saved(image, "TIFF", compression="jpeg", quality=95),
        "HEIC": heic(image, quality=95),
    }
    for name, data in files.items():
        assert np.abs(decode(data, LIMITS).astype(int) - image).mean() < 2, name


def test_grey_palette_and_bilevel_become_rgb(photo: Maker) -> None:
    image = Image.fromarray(photo(20, 31))
    grey = np.asarray(image.convert("L"))
    palette = image.quantize(32)
    bilevel = image.convert("1")
    for data, expected in (
        (saved(image.convert("L"), "PNG"), np.stack([grey] * 3, axis=-1)),
        (saved(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        (saved(palette, "GIF"), np.asarray(palette.convert("RGB"))),
        (saved(bilevel, "PNG"), np.asarray(bilevel.convert("RGB"))),
        (saved(bilevel, "TIFF", compression="group4"), np.asarray(bilevel.convert("RGB"))),
    ):
        np.testing.assert_array_equal(decode(data, LIMITS), expected)
    jpeg = decode(saved(image.convert("L"), "JPEG", quality=95), LIMITS)
    assert np.abs(jpeg[..., 0].astype(int) - grey).mean() < 2


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    levels = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(16, 64)
    expected = np.rint(levels / 257).astype(np.uint8)
    grey = Image.fromarray(levels)
    for form in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode(saved(grey, form), LIMITS), np.stack([expected] * 3, axis=-1), form)
    colour = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    written, data = cv2.imencode(".png", colour[..., ::-1])
    assert written
    difference = np.abs(decode(data.tobytes(), LIMITS) - colour / 257)
    assert difference.max() <= 1  # Pillow keeps the upper byte


def grey_tiff(width: int, height: int, bits: int, white_is_zero: bool, strip: bytes) -> bytes:
    """Write an uncompressed grey TIFF."""
    size = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 0 if white_is_zero else 1)]
    place = [(273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(strip))]
    return tiff(*size, *place, body=strip)


def test_a_tiff_s_tags_define_white() -> None:
    ramp = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    pairs = ramp.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    twelve = decode(grey_tiff(16, 16, 12, False, packed), LIMITS)[..., 0]
    np.testing.assert_array_equal(twelve, np.rint(ramp / 4095 * 255))
    sixteen = ramp * 16
    inverted = decode(grey_tiff(16, 16, 16, True, sixteen.astype("<u2").tobytes()), LIMITS)[..., 0]
    np.testing.assert_array_equal(inverted, 255 - np.rint(sixteen / 257))


@pytest.mark.parametrize("samples", [np.float32, np.int32])
def test_samples_without_a_defined_white_are_refused(samples: type) -> None:
    data = saved(Image.fromarray(np.ones((4, 4), samples)), "TIFF")
    with pytest.raises(DecodeError, match="no defined white; save it with unsigned 8 or 16 bits"):
        decode(data, LIMITS)


def test_cmyk_is_not_inverted(photo: Maker) -> None:
    image = Image.fromarray(cv2.GaussianBlur(photo(64, 64), (0, 0), 2)).convert("CMYK")
    expected = np.asarray(image.convert("RGB")).astype(int)
    adobe = saved(image, "JPEG", quality=95)
    assert b"Adobe" in adobe
    assert np.abs(decode(adobe, LIMITS) - expected).mean() < 3
    assert np.abs(decode(saved(image, "TIFF"), LIMITS) - expected).max() == 0


def test_ycck_follows_adobe(photo: Maker) -> None:
    inks = np.asarray(Image.fromarray(cv2.GaussianBlur(photo(64, 64), (0, 0), 3)).convert("CMYK")).copy()
    inks[..., 3] = np.arange(64, dtype=np.uint8)[:, None] * 2
    stored = np.array(Image.fromarray(inks[..., :3], "RGB").convert("YCbCr"))
    # Pillow writes 255 - x, and libjpeg converts Y, Cb, Cr to 255 - C, M, Y: undo both in the samples.
    data = saved(Image.fromarray(np.dstack([255 - stored, inks[..., 3]]), "CMYK"), "JPEG", quality=97)
    at = data.index(b"Adobe") + 11
    ycck = data[:at] + b"\x02" + data[at + 1 :]
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")).astype(int)
    assert np.abs(decode(ycck, LIMITS) - expected).mean() < 3


def composited_over_white(colours: Pixels, alpha: Pixels) -> Any:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def test_transparency_is_composited_over_white(photo: Maker) -> None:
    image = photo(24, 40)
    alpha = np.linspace(0, 255, 24 * 40).astype(np.uint8).reshape(24, 40)
    rgba = Image.fromarray(np.dstack([image, alpha]))
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        difference = np.abs(decode(saved(rgba, form, **options), LIMITS) - composited_over_white(image, alpha))
        assert difference.max() <= 1, form
    grey = np.asarray(Image.fromarray(image).convert("L"))
    la = saved(Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))), "PNG")
    assert np.abs(decode(la, LIMITS) - composited_over_white(np.dstack([grey] * 3), alpha)).max() <= 1


def test_transparent_palette_entries_are_composited_over_white(photo: Maker) -> None:
    image = Image.fromarray(photo(16, 16)).quantize(8)
    indices, colours = np.asarray(image), np.asarray(image.convert("RGB"))
    opacity = np.array([0, 50, 100, 150, 200, 255, 255, 255], np.uint8)
    data = saved(image, "PNG", transparency=opacity.tobytes())
    assert np.abs(decode(data, LIMITS) - composited_over_white(colours, opacity[indices])).max() <= 1
    gif = decode(saved(image, "GIF", transparency=3), LIMITS)
    np.testing.assert_array_equal(gif[indices == 3], 255)
    np.testing.assert_array_equal(gif[indices != 3], colours[indices != 3])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_of_each_depth_is_white(depth: int) -> None:
    """tRNS has the file's own depth: 5 of 15 must match, 5 of 255 must not."""
    top = 2**depth - 1
    key = top // 3  # 0 for bilevel
    samples = [key, top, 0, key] if depth > 1 else [0, 1, 0, 1]
    bits = "".join(format(sample, f"0{depth}b") for sample in samples)
    row = b"\x00" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    pixels = decode(png(4, 1, depth, 0, row, (b"tRNS", struct.pack(">H", key))), LIMITS)
    expected = [255 if sample == key else round(sample / top * 255) for sample in samples]
    assert pixels[0, :, 0].tolist() == expected


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_is_white(depth: int) -> None:
    scale = 257 if depth == 16 else 1
    colours = [(10, 20, 30), (200, 20, 30), (10, 20, 30)]
    kind = ">u2" if depth == 16 else ">u1"
    row = b"\x00" + (np.array(colours) * scale).astype(kind).tobytes()
    key = struct.pack(">HHH", *(value * scale for value in colours[0]))
    pixels = decode(png(3, 1, depth, 2, row, (b"tRNS", key)), LIMITS)
    assert pixels[0].tolist() == [[255, 255, 255], [200, 20, 30], [255, 255, 255]]


def test_an_animation_decodes_to_its_first_frame(photo: Maker) -> None:
    frames = [Image.fromarray(np.roll(photo(30, 40), shift, axis=1)).quantize(64).convert("RGB") for shift in (0, 9, 20)]
    expected = np.asarray(frames[0])
    more = {"save_all": True, "append_images": frames[1:]}
    for form, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        np.testing.assert_array_equal(decode(saved(frames[0], form, **more, **options), LIMITS), expected, form)


STORED: dict[int, Callable[[Pixels], Pixels]] = {  # EXIF 2.32, table 4
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_all_orientations_are_applied(orientation: int, photo: Maker) -> None:
    upright = cv2.GaussianBlur(photo(48, 80), (0, 0), 2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    for form, options, bound in (
        ("JPEG", {"quality": 95}, 2),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("AVIF", {"quality": 95}, 2),
    ):
        pixels = decode(saved(stored, form, exif=exif, **options), LIMITS)
        assert pixels.shape == upright.shape, form
        assert np.abs(pixels.astype(int) - upright).mean() <= bound, form


def test_orientation_works_with_transparency_and_a_profile(photo: Maker) -> None:
    upright = photo(20, 50)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(upright, 1)
    clear = Image.fromarray(np.dstack([stored, np.where(stored[..., 0] > 0, 255, 254).astype(np.uint8)]))
    clear.putpixel((0, 0), (0, 0, 0, 0))
    pixels = decode(saved(clear, "PNG", exif=exif), LIMITS)
    assert pixels.shape == upright.shape
    assert np.abs(pixels[1:, :-1].astype(int) - upright[1:, :-1]).max() <= 1
    profiled = decode(saved(Image.fromarray(stored), "PNG", exif=exif, icc_profile=SWAPPED), LIMITS)
    assert np.abs(profiled[..., ::-1].astype(int) - upright).max() <= 1


@pytest.mark.parametrize("orientation", STORED)
def test_a_preview_has_enough_pixels_and_the_full_size(orientation: int, photo: Maker) -> None:
    upright = cv2.GaussianBlur(photo(640, 802), (0, 0), 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(np.ascontiguousarray(STORED[orientation](upright)), "JPEG", exif=exif, quality=95)
    for side_px, shape in ((802, (640, 802)), (401, (320, 401)), (102, (160, 201)), (100, (80, 101)), (1, (80, 101))):
        small, full = decode_preview(data, LIMITS, side_px)
        assert full == (640, 802)
        assert small.shape == (*shape, 3)
        expected = cv2.resize(upright, shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - expected).mean() < 2


def test_previews_of_small_images_and_of_other_formats_are_complete(photo: Maker) -> None:
    for data in (saved(photo(30, 20), "JPEG", quality=90), saved(photo(300, 200), "PNG")):
        small, full = decode_preview(data, LIMITS, 60)
        np.testing.assert_array_equal(small, decode(data, LIMITS))
        assert full == small.shape[:2]


def test_a_damaged_jpeg_has_no_preview(photo: Maker) -> None:
    data = saved(photo(640, 800), "JPEG", quality=90)
    for damaged in (data[: len(data) // 2], data[:400] + bytes(200) + data[600:-2]):
        with pytest.raises(DecodeError):
            decode_preview(damaged, LIMITS, 100)


def test_unreadable_exif_is_ignored(photo: Maker) -> None:
    image = photo(10, 12)
    for exif in (
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00garbage",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09",
    ):
        np.testing.assert_array_equal(decode(saved(image, "PNG", exif=exif), LIMITS), image)


def test_profiles_are_applied(photo: Maker) -> None:
    image = photo(16, 24)
    swapped = decode(saved(image, "PNG", icc_profile=SWAPPED), LIMITS)
    assert np.abs(swapped[..., ::-1].astype(int) - image).max() <= 1
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[0] = 128
    clear = decode(saved(Image.fromarray(np.dstack([image, alpha])), "PNG", icc_profile=SWAPPED), LIMITS)
    assert np.abs(clear[..., ::-1] - composited_over_white(image, alpha)).max() <= 2


def icc(kind: bytes, space: bytes, middle: bytes, *data_tags: tuple[bytes, bytes]) -> bytes:
    """Write an ICC profile (version 2)."""
    daylight = struct.pack(">3i", 63190, 65536, 54061)  # D50
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    named = [*data_tags, (b"wtpt", b"XYZ " + bytes(4) + daylight), (b"desc", text)]
    start, body, tags = 128 + 4 + len(named) * 12, b"", b""
    for name, data in named:
        tags += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"lcms", 0x02400000, kind, space, middle, b"acsp")
    return (head + bytes(28) + daylight).ljust(128, b"\0") + struct.pack(">I", len(named)) + tags + body


def test_grey_profiles_are_applied() -> None:
    gamma = b"curv" + bytes(4) + struct.pack(">IH", 1, round(1.8 * 256))
    profile = icc(b"mntr", b"GRAY", b"XYZ ", (b"kTRC", gamma))
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    light = (np.arange(256) / 255) ** 1.8
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255  # IEC 61966-2-1
    opaque = decode(saved(ramp, "PNG", icc_profile=profile), LIMITS)
    assert np.abs(opaque[0].astype(int) - encoded[:, None])[16:].max() <= 2  # LittleCMS is coarse near black
    half = Image.merge("LA", (ramp, Image.new("L", ramp.size, 128)))
    clear = decode(saved(half, "PNG", icc_profile=profile), LIMITS)
    assert np.abs(clear[0] - composited_over_white(encoded[:, None], np.full(256, 128)))[16:].max() <= 2


def grey_inks() -> bytes:
    """A printer's profile in which each ink only darkens: C, M and Y by 30 of L* = 100, K to black."""
    corners = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    light = (1 - 0.3 * corners[:, :3].sum(axis=1)) * (1 - corners[:, 3])
    lab = np.stack([np.rint(light * 255), np.full(16, 128), np.full(16, 128)], axis=-1).astype(np.uint8)
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + straight * 4 + lab.tobytes() + straight * 3
    return icc(b"prtr", b"CMYK", b"Lab ", (b"A2B0", table))


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_profiles_are_applied(form: str) -> None:
    patches = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    inks = Image.new("CMYK", (16 * len(patches), 16))
    for number, ink in enumerate(patches):
        inks.paste(ink, (16 * number, 0, 16 * number + 16, 16))
    pixels = decode(saved(inks, form, icc_profile=grey_inks()), LIMITS)[8, 8::16].astype(int)
    assert np.ptp(pixels, axis=-1).max() <= 3  # no colour remains
    assert np.abs(pixels.mean(axis=-1) - [255, 171, 171, 171, 0]).max() <= 4  # L* = 70 is 171


def test_invalid_mismatched_and_srgb_profiles_change_nothing(photo: Maker) -> None:
    image = photo(16, 24)
    gamma = struct.pack(">i", round(2.4 * 65536))
    assert gamma in SRGB
    nearly = SRGB.replace(gamma, struct.pack(">i", round(2.42 * 65536)))
    grey = Image.fromarray(image).convert("L")
    inks = Image.fromarray(image).convert("CMYK")
    for picture, profile in (
        (Image.fromarray(image), SRGB),
        (Image.fromarray(image), nearly),
        (Image.fromarray(image), b"not a profile at all"),
        (Image.fromarray(image), SWAPPED[:200]),
        (Image.fromarray(image), SWAPPED[:128] + bytes(len(SWAPPED) - 128)),
        (grey, SWAPPED),  # an RGB profile does not apply to grey or CMYK
        (inks, SWAPPED),
    ):
        form = "TIFF" if picture.mode == "CMYK" else "PNG"
        expected = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(decode(saved(picture, form, icc_profile=profile), LIMITS), expected)


def test_lab_is_converted() -> None:
    lab = Image.merge("LAB", [Image.new("L", (5, 5), value) for value in (128, 128, 128)])
    pixels = decode(saved(lab, "TIFF"), LIMITS).astype(int)
    assert np.ptp(pixels, axis=-1).max() <= 2  # no colour
    assert 110 < pixels.mean() < 128  # L* = 50 is 119


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_one_pixel_and_panoramas(form: str) -> None:
    assert decode(saved(Image.new("RGB", (1, 1), (200, 100, 50)), form), LIMITS).shape == (1, 1, 3)
    for size in ((16000, 2), (2, 16000)):
        assert decode(saved(Image.new("RGB", size, (9, 9, 9)), form), LIMITS).shape == (size[1], size[0], 3)


def test_limits_are_checked_before_decoding(photo: Maker) -> None:
    data = saved(photo(40, 50), "PNG")
    assert decode(data, Limits(max_bytes=len(data), max_pixels=2000)).shape == (40, 50, 3)
    with pytest.raises(DecodeError, match=r"limits\.max_bytes allows"):
        decode(data, Limits(max_bytes=len(data) - 1))
    with pytest.raises(DecodeError, match=r"50 wide and 40 high, 2,000 pixels; limits\.max_pixels allows 1,999"):
        decode(data, Limits(max_pixels=1999))


def test_decompression_bombs_are_refused_by_their_header() -> None:
    """A few bytes claim gigapixels. Decoding them would need gigabytes."""
    huge = 60_000
    small = Image.new("RGB", (16, 16))
    jpeg = saved(small, "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    bmp = saved(small, "BMP")
    gif = saved(small, "GIF")
    webp = saved(small, "WEBP", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")])
    assert webp[12:16] == b"VP8X"
    bombs = {
        "PNG": png(huge, huge, 8, 2, b"\x00" * 100),
        "JPEG": jpeg[:frame] + struct.pack(">HH", huge, huge) + jpeg[frame + 4 :],
        "BMP": bmp[:18] + struct.pack("<ii", huge, huge) + bmp[26:],
        "GIF": gif[:6] + struct.pack("<HH", huge, huge) + gif[10:],
        "TIFF": grey_tiff(huge, huge, 8, False, bytes(100)),
        "WebP": webp[:24] + (11_999).to_bytes(3, "little") * 2 + webp[30:],
    }
    for name, data in bombs.items():
        with pytest.raises(DecodeError, match=r"max_pixels|larger than its decoder allows"):
            decode(data, Limits())
        assert len(data) < 5000, name


def test_no_side_may_exceed_the_limit_of_png_readers() -> None:
    wide = 1_000_001
    with pytest.raises(DecodeError, match="no side may exceed 1,000,000"):
        decode(png(wide, 1, 1, 0, bytes(1 + wide // 8 + 1)), LIMITS)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("mib", [2, 64])
def test_metadata_never_costs_a_png(name: bytes, mib: int) -> None:
    """Texts of more than 1 MiB, as of ComfyUI's workflows, and bombs are not read."""
    body = zlib.compress(bytes(mib * 2**20), 9)
    payload = b"key\x00\x01\x00\x00\x00" + body if name == b"iTXt" else b"key\x00\x00" + body
    assert decode(png(1, 1, 8, 0, b"\x00\x80", (name, payload)), LIMITS).tolist() == [[[128, 128, 128]]]


@pytest.mark.parametrize("name", [b"tEXt", b"pHYs", b"iCCP", b"eXIf", b"gAMA", b"caBX"])
def test_a_wrong_checksum_of_metadata_never_costs_a_png(name: bytes) -> None:
    sound = png(1, 1, 8, 0, b"\x00\x80", (name, b"\x00" * 9))
    at = sound.index(name) + 4 + 9
    damaged = sound[:at] + bytes(4) + sound[at + 4 :]
    assert damaged != sound
    assert decode(damaged, LIMITS).tolist() == [[[128, 128, 128]]]


def test_numbers_about_colours_never_cost_a_png() -> None:
    rng = np.random.default_rng(5)
    ends = [0, 1, 31_270, 45_455, 100_000, 2**31 - 1, 2**32 - 1]
    for _ in range(300):
        white = struct.pack(">8I", *rng.choice(ends, 8).tolist())
        chunks = [(b"gAMA", struct.pack(">I", rng.choice([20_000, *ends]))), (b"cHRM", white[: rng.choice([32, 5])])]
        code = bytes([*rng.integers(0, 16, 2).tolist(), 0, 1])[: rng.choice([0, 3, 4])]
        pixels = decode(png(1, 1, 8, 2, b"\x00\x80\x40\x20", *chunks, (b"cICP", code)), LIMITS)
        assert pixels.shape == (1, 1, 3)


def test_an_absurd_gamma_is_ignored() -> None:
    for gamma in (0, 1, 2**32 - 1):
        assert decode(png(1, 1, 8, 0, b"\x00\x80", (b"gAMA", struct.pack(">I", gamma))), LIMITS).tolist() == [[[128] * 3]]


def test_samples_in_separate_planes_are_read_right_or_refused() -> None:
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 65536, (3, 8, 6), dtype=np.uint16)
    with pytest.raises(DecodeError, match="this TIFF can't be used: it stores 16-bit samples in separate planes"):
        decode(planar_tiff(planes), LIMITS)
    small = (planes >> 8).astype(np.uint8)
    assert np.array_equal(decode(planar_tiff(small), LIMITS), small.transpose(1, 2, 0))


def planar_tiff(planes: np.ndarray) -> bytes:
    """An uncompressed RGB TIFF of separate planes (TIFF 6.0, PlanarConfiguration 2)."""
    count, height, width = planes.shape
    bits, size = 8 * planes.itemsize, planes[0].nbytes
    data_at = 8 + 2 + 10 * 12 + 4
    arrays = data_at + planes.nbytes
    tags = [
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, count, arrays), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, count, arrays + 2 * count), (277, 3, 1, count), (278, 3, 1, height)),
        *((279, 4, count, arrays + 2 * count + 4 * count), (284, 3, 1, 2)),
    ]
    head = b"II*\x00" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    tail = struct.pack(f"<{count}H", *[bits] * count)
    tail += struct.pack(f"<{count}I", *(data_at + number * size for number in range(count))) + struct.pack(
        f"<{count}I", *[size] * count
    )
    return head + planes.astype(planes.dtype.newbyteorder("<")).tobytes() + tail


def test_pillow_s_own_pixel_limit_is_neither_used_nor_changed(photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    image = photo(20, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in ("PNG", "BMP"):
            np.testing.assert_array_equal(decode(saved(image, form), LIMITS), image)
        for form in ("JPEG", "AVIF"):
            decode(saved(image, form), LIMITS)
    with pytest.raises(DecodeError, match="save it as PNG or JPEG"):
        decode(saved(image, "TIFF"), LIMITS)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("name", valid_images())
def test_a_cut_file_is_an_error_or_the_complete_picture(name: str) -> None:
    data = valid_images()[name]
    complete, refused = decode(data, LIMITS), 0
    cuts = sorted({*range(0, len(data), max(1, len(data) // 60)), *range(max(0, len(data) - 16), len(data))})
    for cut in cuts:
        try:
            pixels = decode(data[:cut], LIMITS)
        except DecodeError:
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, complete, f"cut at {cut} of {len(data)}")
    assert refused > len(cuts) / 4, "later frames and pages may be missing"


def test_a_png_that_ends_in_zeros_is_refused(photo: Maker) -> None:
    data = saved(photo(200, 300), "PNG")
    for share in (0.2, 0.6, 0.9):
        kept = int(len(data) * share)
        with pytest.raises(DecodeError):
            decode(data[:kept] + bytes(len(data) - kept), LIMITS)


STARTS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\x00", b"MM\x00*", b"II+\x00", b"BM"]
STARTS += [b"RIFF\x00\x01\x00\x00WEBP", b"\x00\x00\x00\x18ftypavif", b"\x00\x00\x00\x18ftypheic"]


@settings(max_examples=150, deadline=None)
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_decode_errors(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert decode(start + rest, LIMITS).size <= 3 * LIMITS.max_pixels


def test_heic_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DecodeError, match=re.escape("pip install 'matteline[heif]'")):
        decode(b"\x00\x00\x00\x18ftypheic" + bytes(100), LIMITS)


def test_avif_without_its_decoder_is_refused(photo: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(photo(8, 8), "AVIF")
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    with pytest.raises(DecodeError, match="this build of Pillow does not support AVIF"):
        decode(data, LIMITS)


@pytest.mark.parametrize("form", ["JPEG2000", "ICO", "PPM", "TGA", "EPS", "PDF", "PCX", "SGI", "DDS", "ICNS"])
def test_unsupported_formats_are_refused(form: str) -> None:
    with pytest.raises(DecodeError, match="not a supported image"):
        decode(saved(Image.new("RGB", (32, 32), "red"), form), LIMITS)


def test_decode_is_thread_safe(photo: Maker) -> None:
    files = [saved(photo(60 + n, 70), "PNG", icc_profile=SWAPPED if n % 2 else SRGB) for n in range(8)]
    expected = [decode(data, LIMITS) for data in files]
    with ThreadPoolExecutor(len(files)) as pool:
        for pixels, wanted in zip(pool.map(lambda data: decode(data, LIMITS), files * 10), expected * 10, strict=True):
            np.testing.assert_array_equal(pixels, wanted)


def test_awkward_files_in_all_orientations_agree(shared: Path) -> None:
    path = shared / "data" / "torture" / "images.parquet"
    if not path.exists():
        pytest.skip("no awkward files")
    series: dict[str, list[Pixels]] = {}
    for row in pq.read_table(path).to_pylist():
        found = re.search(
            r"(exif-samples/jpg/orientation/(?:landscape|portrait)|exif-orientation/Portrait)_[1-8]\.jpg", row["file"]
        )
        if found:
            series.setdefault(found[1], []).append(decode(row["data"], Limits()))
    assert len(series) == 3
    for name, pictures in series.items():
        assert len(pictures) >= 7, name
        assert len({picture.shape for picture in pictures}) == 1, name
        small = [cv2.resize(picture, (60, 60), interpolation=cv2.INTER_AREA).astype(int) for picture in pictures]
        for picture in small[1:]:
            assert np.abs(picture - small[0]).mean() < 12, name


def test_decoding_imports_no_pandas(tmp_path: Path, photo: Maker) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(photo(20, 30), "JPEG"))
    code = (
        "import sys; from pathlib import Path; from pipeline.config.job import Limits;"
        "from pipeline.imaging.decode import decode;"
        "decode(Path('a.jpg').read_bytes(), Limits()); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n", "it takes half a second"
