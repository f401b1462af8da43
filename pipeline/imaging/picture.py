"""Convert the pictures of Python users: paths, bytes, files, PIL images and arrays in, PIL images and previews out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.colour import to_srgb
from pipeline.imaging.decode import decode, upright
from pipeline.imaging.png import encode_cutout
from pipeline.paths import example_path
from pipeline.types import Pixels

Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[Any] | Mapping[str, Any]
"""A path of an image file, its bytes or an open binary file; a PIL image of any mode; an array of uint8, booleans, or floats
in [0, 1]: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, (H, W, 4) RGBA; or ``{"bytes": …, "path": …}``, as ``datasets`` gives it."""

PilImage = Image.Image

PREVIEW_PX = 1024
"""Longer side of a preview, at most: a notebook keeps every picture that it shows."""

TOLERANCE = 1e-3
"""How far floats may be outside [0, 1]: resampling and colour conversions overshoot a little."""

TAKEN = (
    "give a path, bytes, a binary file, a PIL image, an array of shape (H, W), (H, W, 3) RGB or (H, W, 4) RGBA (uint8, or "
    "float from 0 to 1), or a list of these"
)


def is_several(thing: object) -> bool:
    """Return whether this is a list, tuple or other iterable of pictures, and not one picture."""
    if isinstance(thing, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | np.ndarray | Mapping):
        return False
    return hasattr(thing, "__iter__") and not hasattr(thing, "read") and not hasattr(thing, "__array__")


def upright_rgb(picture: Picture) -> Pixels:
    """Convert to what ``decode`` returns: upright, sRGB, transparency composited over white; (H, W, 3) uint8.

    Raises:
        TypeError: It is no picture, or an array of another shape, type or scale. The message says what is taken.
        DecodeError: The file cannot be read or decoded.
    """
    if isinstance(picture, Mapping):
        picture = _from_mapping(picture)
    if isinstance(picture, str | os.PathLike):
        return decode(_read(picture), Limits())
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture), Limits())
    if isinstance(picture, Image.Image):
        return _from_pil(picture)
    if isinstance(picture, np.ndarray) or hasattr(picture, "__array__"):
        return _from_array(_as_array(picture))
    data = picture.read() if hasattr(picture, "read") else None
    if not isinstance(data, bytes):
        raise TypeError(f"a {type(picture).__name__} is not a picture; {TAKEN}")
    if not data:
        raise DecodeError("the open file has nothing left to read: it is empty, or at its end; go to its start with seek(0)")
    return decode(data, Limits())


def as_pil(cutout: npt.NDArray[np.uint8]) -> PilImage:
    """Return (H, W, 4) straight RGBA as a PIL image of mode RGBA."""
    return Image.fromarray(cutout)


def preview(image: PilImage) -> bytes:
    """Encode an RGBA image as PNG, its longer side reduced to ``PREVIEW_PX``."""
    small = image.copy()
    small.thumbnail((PREVIEW_PX, PREVIEW_PX))  # Pillow resizes RGBA with premultiplied colours
    pixels = np.asarray(small)
    return encode_cutout(np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3]))


def _from_mapping(row: Mapping[str, Any]) -> str | bytes:
    """Return the bytes of a picture of ``datasets`` that is not decoded, or else its path."""
    data, path = row.get("bytes"), row.get("path")
    if isinstance(data, bytes):
        return data
    if isinstance(path, str):
        return path
    raise TypeError(f"a {type(row).__name__} without the bytes or the path of a picture is not a picture; {TAKEN}")


def _as_array(picture: Any) -> npt.NDArray[Any]:
    """Return an array, or a tensor of any device, as an array.

    Raises:
        TypeError: NumPy has no such type, for instance bfloat16.
    """
    if hasattr(picture, "detach") and hasattr(picture, "cpu"):
        picture = picture.detach().cpu()
    try:
        return np.asarray(picture)
    except Exception as error:
        raise TypeError(f"a {type(picture).__name__} cannot be read as an array ({error}); {TAKEN}") from error


def _read(path: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes. Errors name it as the user did."""
    if not os.fspath(path):
        raise DecodeError("the path of the picture is empty; give the path of an image file")
    try:
        return Path(example_path(os.fspath(path))).read_bytes()
    except IsADirectoryError:
        raise DecodeError(f"{path} is a folder; give a list of its files, or use pipeline.run for a whole folder") from None
    except (OSError, ValueError) as error:
        hint = "; open it yourself and give its bytes" if "://" in str(path) else ""
        raise DecodeError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}){hint}") from error


def _from_pil(image: PilImage) -> Pixels:
    try:
        image.load()
    except Exception as error:
        raise DecodeError(f"this picture is cut off or damaged ({error}); open it again") from error
    if 0 in image.size:
        raise DecodeError(f"a picture of {image.width} x {image.height} pixels has nothing to cut out")
    image = upright(image)
    if image.mode == "F":
        return _from_array(np.asarray(image))
    if image.mode == "I":
        return _from_levels(np.asarray(image))
    return np.array(to_srgb(image))


def _from_levels(levels: npt.NDArray[np.int32]) -> Pixels:
    """Convert a PIL image of mode I, (H, W) int32, whose values are of 16 bits, as those of a 16-bit PNG.

    Raises:
        TypeError: The values are of more bits, or could be of 8 bits.
    """
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or not 255 < high <= 65_535:
        raise TypeError(
            f"a PIL image of mode I has no known white; convert it to mode L or I;16, or give an array of floats "
            f"(its values are from {low} to {high})"
        )
    return _from_array(levels / np.float32(65_535))


def _from_array(array: npt.NDArray[Any]) -> Pixels:
    return np.array(to_srgb(Image.fromarray(_as_uint8(array))))


def _as_uint8(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return (H, W), (H, W, 3) or (H, W, 4) uint8.

    Raises:
        TypeError: The array has another shape, type or scale.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in {2, 3} or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in {3, 4}):
        hint = ""
        if array.ndim == 3 and array.shape[0] in {1, 3, 4}:
            hint = "; move the channels to the end, for instance with array.transpose(1, 2, 0)"
        if array.ndim == 4:
            hint = "; give a list of pictures for several"
        raise TypeError(f"an array of shape {array.shape} is not a picture{hint or f'; {TAKEN}'}")
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f" and array.min() >= -TOLERANCE and array.max() <= 1 + TOLERANCE:  # NaN is neither
        return np.ascontiguousarray(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8))
    if array.dtype != np.uint8:
        levels = f"type {array.dtype}" + (f" from {array.min():g} to {array.max():g}" if array.dtype.kind in "fiu" else "")
        raise TypeError(f"the scale of an array of {levels} is unknown; {TAKEN}")
    return np.ascontiguousarray(array)
