"""Convert the pictures of Python users: paths, bytes, files, PIL images and arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.colour import to_srgb
from pipeline.imaging.decode import decode, upright
from pipeline.types import Pixels

Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[Any]
"""A path of an image file, its bytes or an open binary file; a PIL image of any mode; or an array of uint8, booleans, or floats
in [0, 1]: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, (H, W, 4) RGBA."""

TAKEN = (
    "give a path, bytes, a binary file, a PIL image, an array of shape (H, W), (H, W, 3) RGB or (H, W, 4) RGBA (uint8, or "
    "float from 0 to 1), or a list of these"
)


def is_several(thing: object) -> bool:
    """Return whether this is a list, tuple or other iterable of pictures, and not one picture."""
    if isinstance(thing, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | np.ndarray):
        return False
    return hasattr(thing, "__iter__") and not hasattr(thing, "read") and not hasattr(thing, "__array__")


def upright_rgb(picture: Picture) -> Pixels:
    """Convert to what ``decode`` returns: upright, sRGB, transparency composited over white; (H, W, 3) uint8.

    Raises:
        TypeError: It is no picture. The message says what is taken.
        DecodeError: The file cannot be read or decoded, or the array has another shape or type.
    """
    if isinstance(picture, str | os.PathLike):
        return decode(_read(Path(picture)), Limits())
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture), Limits())
    if isinstance(picture, Image.Image):
        try:
            picture.load()
        except Exception as error:
            raise DecodeError(f"this picture is cut off or damaged ({error}); open it again") from error
        return np.array(to_srgb(upright(picture)))
    if isinstance(picture, np.ndarray) or hasattr(picture, "__array__"):
        return np.array(to_srgb(Image.fromarray(_as_uint8(np.asarray(picture)))))
    data = picture.read() if hasattr(picture, "read") else None
    if not isinstance(data, bytes):
        raise TypeError(f"a {type(picture).__name__} is not a picture; {TAKEN}")
    return decode(data, Limits())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        hint = "; open it yourself and give its bytes" if "://" in str(path) or ":/" in str(path) else ""
        raise DecodeError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}){hint}") from error


def _as_uint8(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return (H, W), (H, W, 3) or (H, W, 4) uint8."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in {2, 3} or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in {3, 4}):
        hint = ""
        if array.ndim == 3 and array.shape[0] in {1, 3, 4}:
            hint = "; move the channels to the end, for instance with array.transpose(1, 2, 0)"
        if array.ndim == 4:
            hint = "; give a list of pictures for several"
        raise DecodeError(f"an array of shape {array.shape} is not a picture{hint or f'; {TAKEN}'}")
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return np.ascontiguousarray(np.rint(array * 255).astype(np.uint8))
    if array.dtype != np.uint8:
        levels = f"type {array.dtype}" + (f" from {array.min():g} to {array.max():g}" if array.dtype.kind in "fiu" else "")
        raise DecodeError(f"the scale of an array of {levels} is unknown; {TAKEN}")
    return np.ascontiguousarray(array)
