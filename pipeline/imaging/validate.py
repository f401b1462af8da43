"""Validate written objects: complete, of the right format and size."""

from __future__ import annotations

import io

import numpy as np
from PIL import PngImagePlugin

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode, decode_stored
from pipeline.imaging.rle import read_rle
from pipeline.imaging.sniff import sniff
from pipeline.types import Mask, Pixels, Size

NO_LIMITS = Limits(max_pixels=2**40, max_bytes=2**40)

_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WebP"}


def decoded_size(data: bytes, suffix: str) -> Size:
    """Return an object's height and width after decoding all of it.

    The suffix of its name is ``png``, ``jpg``, ``webp``, or ``json`` for run lengths.

    Raises:
        DecodeError: The object is damaged, or of another format.
    """
    if suffix == "json":
        try:
            return read_rle(data)[0]
        except ValueError as error:
            raise DecodeError(f"these run lengths are invalid: {error}") from error
    if (form := sniff(data)) != _FORMATS.get(suffix):
        raise DecodeError(f"it is a {form} in a file called .{suffix}")
    height, width, _ = decode(data, NO_LIMITS).shape
    return Size(height, width)


def validation_error(data: bytes, suffix: str, size: Size | None = None) -> str | None:
    """Say what is wrong with an object that should be of this format (and size); None if it is valid."""
    try:
        actual = decoded_size(data, suffix)
    except DecodeError as error:
        return str(error)
    if size is None or actual == size:
        return None
    return f"it has {actual.width} x {actual.height} pixels, but its index row says {size.width} x {size.height}"


def decode_mask(data: bytes) -> Mask:
    """Decode a mask's opacity, (H, W) uint8.

    Raises:
        DecodeError: The mask is damaged.
    """
    return decode(data, NO_LIMITS)[..., 0]


def decode_cutout(data: bytes) -> tuple[Pixels, Mask]:
    """Decode a cutout's colours, (H, W, 3), and its opacity, (H, W).

    Raises:
        DecodeError: The cutout is damaged, or not an RGBA PNG.
    """
    decode(data, NO_LIMITS)  # detects damage
    if sniff(data) != "PNG" or (image := PngImagePlugin.PngImageFile(io.BytesIO(data))).mode != "RGBA":
        raise DecodeError("it is not an RGBA PNG")
    pixels = np.asarray(image)
    return pixels[..., :3], pixels[..., 3]


def decode_picture(data: bytes) -> tuple[Pixels, Mask | None]:
    """Decode any stored picture's colours, (H, W, 3), and its opacity, (H, W); None without transparency.

    Colours are straight: those of transparent pixels are not mixed with the white that ``decode`` puts below them.

    Raises:
        DecodeError: It is damaged, or no picture.
    """
    over_white = decode(data, NO_LIMITS)
    stored = decode_stored(data, NO_LIMITS)
    if stored is None or stored.ndim == 2:
        return over_white, None
    alpha = np.ascontiguousarray(stored[..., 3])
    share = np.maximum(alpha[..., None], 1).astype(np.float32) / 255
    straight = 255 - (255 - over_white.astype(np.float32)) / share
    return straight.round().clip(0, 255).astype(np.uint8), alpha
