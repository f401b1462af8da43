"""Convert the pictures of Python users: PIL images and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import DecodeError
from pipeline.imaging.colour import to_srgb
from pipeline.imaging.decode import upright
from pipeline.types import Pixels

Picture = Image.Image | npt.NDArray[Any]
"""A PIL image of any mode, or a uint8 array: (H, W) or (H, W, 1) grey, (H, W, 3) RGB, (H, W, 4) RGBA."""


def is_picture(thing: object) -> bool:
    """Return whether this is one picture, and not a list of pictures."""
    return isinstance(thing, Image.Image | np.ndarray)


def upright_rgb(picture: Picture) -> Pixels:
    """Convert to what ``decode`` returns: upright, sRGB, transparency composited over white; (H, W, 3) uint8.

    Raises:
        DecodeError: The array has another shape or dtype, or samples without a defined white.
    """
    if isinstance(picture, Image.Image):
        try:
            picture.load()
        except Exception as error:
            raise DecodeError(f"this picture is cut off or damaged ({error}); open it again") from error
        return np.array(to_srgb(upright(picture)))
    if picture.dtype != np.uint8 or picture.ndim not in {2, 3} or 0 in picture.shape:
        raise DecodeError(
            f"an array of shape {picture.shape} and type {picture.dtype} is not a picture; "
            "give uint8 of shape (H, W), (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    flat = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    if flat.ndim == 3 and flat.shape[2] not in {3, 4}:
        raise DecodeError(f"an array of shape {picture.shape} has {flat.shape[2]} channels; give 1 (grey), 3 (RGB) or 4 (RGBA)")
    return np.array(to_srgb(Image.fromarray(np.ascontiguousarray(flat))))
