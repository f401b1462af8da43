"""Small files whose headers claim many pixels, in every format."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

from PIL import Image
from valid_images import rotated_exif, saved


def claims(side_px: int) -> dict[str, Callable[[], bytes]]:
    """Return makers of files of a square picture of one colour, by name."""
    one = Image.new("RGB", (side_px, side_px), (200, 30, 90))
    clear = Image.new("RGBA", one.size, (200, 30, 90, 100))
    exif = rotated_exif()
    makers = {
        "WebP animated": lambda: small_frame(side_px),
        "WebP alpha rotated": lambda: saved(clear, "WEBP", lossless=True, method=0, exif=exif),
        "WebP lossy": lambda: saved(one, "WEBP", method=0),
        "PNG alpha rotated": lambda: saved(clear, "PNG", compress_level=1, exif=exif),
        "JPEG progressive": lambda: saved(one, "JPEG", progressive=True, subsampling=0),
        "TIFF": lambda: saved(clear, "TIFF", compression="tiff_adobe_deflate"),
        "AVIF alpha": lambda: saved(clear, "AVIF", speed=10),
    }
    try:
        import pillow_heif
    except ImportError:
        return makers

    def heic() -> bytes:
        stream = io.BytesIO()
        pillow_heif.from_pillow(one).save(stream)
        return stream.getvalue()

    return {**makers, "HEIC": heic}


def small_frame(side_px: int) -> bytes:
    """Write an animated WebP of about 200 bytes: 16 x 16 pixels on a large canvas."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    return data[:24] + (side_px - 1).to_bytes(3, "little") * 2 + data[30:]


def resized_avif(data: bytes, width: int, height: int) -> bytes:
    """Change every size that the boxes of an AVIF claim, and none of its coded pictures."""
    changed = bytearray(data)
    at = changed.find(b"ispe")
    while at >= 0:
        struct.pack_into(">II", changed, at + 8, width, height)
        at = changed.find(b"ispe", at + 4)
    at = changed.find(b"tkhd")
    while at >= 0:
        end = at - 4 + int.from_bytes(changed[at - 4 : at], "big")
        struct.pack_into(">II", changed, end - 8, width << 16, height << 16)
        at = changed.find(b"tkhd", at + 4)
    return bytes(changed)
