"""Is a published object whole, and how large is it?"""

from __future__ import annotations

import io

import numpy as np
from PIL import PngImagePlugin

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode
from pipeline.imaging.rle import read_rle
from pipeline.imaging.sniff import recognise
from pipeline.types import Mask, Pixels, Size

BOUNDLESS = Limits(max_pixels=2**40, max_bytes=2**40)

_FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WebP"}


def size_of(data: bytes, suffix: str) -> Size:
    """The height and width that an object turns out to have when all of it is decoded.

    Args:
        suffix: how its name ends: ``png``, ``jpg``, ``webp``, or ``json`` for run lengths.

    Raises:
        DecodeError: it is damaged, or of another format.
    """
    if suffix == "json":
        try:
            return read_rle(data)[0]
        except ValueError as error:
            raise DecodeError(f"these run lengths can't be used: {error}") from error
    if (form := recognise(data)) != _FORMATS.get(suffix):
        raise DecodeError(f"it is a {form} in a file called .{suffix}")
    height, width, _ = decode(data, BOUNDLESS).shape
    return Size(height, width)


def fault(data: bytes, suffix: str, size: Size | None = None) -> str | None:
    """What is wrong with an object that should be of this format (and size); None if nothing is."""
    try:
        found = size_of(data, suffix)
    except DecodeError as error:
        return str(error)
    if size is None or found == size:
        return None
    return f"it is {found.width} wide and {found.height} high, the row says {size.width} and {size.height}"


def decode_mask(data: bytes) -> Mask:
    """A mask's opacity, (H, W) uint8.

    Raises:
        DecodeError: it is damaged.
    """
    return decode(data, BOUNDLESS)[..., 0]


def decode_cutout(data: bytes) -> tuple[Pixels, Mask]:
    """A cutout's colours, (H, W, 3), and its opacity, (H, W).

    Raises:
        DecodeError: it is damaged, or no RGBA PNG.
    """
    decode(data, BOUNDLESS)  # the one door: it knows what damage looks like
    if recognise(data) != "PNG" or (image := PngImagePlugin.PngImageFile(io.BytesIO(data))).mode != "RGBA":
        raise DecodeError("it is no RGBA PNG; see matteline verify")
    pixels = np.asarray(image)
    return pixels[..., :3], pixels[..., 3]
