"""Encode a cutout as it is in any format: transparent, or over a colour."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.config.rendition import rgb
from pipeline.errors import WriteError
from pipeline.imaging.icc import srgb_profile
from pipeline.imaging.lossy import encode_lossy
from pipeline.imaging.png import encode_cutout, encode_picture
from pipeline.imaging.renditions.compose import composite, premultiply
from pipeline.imaging.renditions.fit import Fit, object_box
from pipeline.types import Mask, Pixels, Size

Format = Literal["png", "webp", "jpeg", "tiff"]

FORMATS: dict[str, Format] = {
    **{".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"},
    **{".tif": "tiff", ".tiff": "tiff"},
}
"""Format of each suffix of a file."""

LONGEST_SIDES_PX: dict[Format, tuple[str, int]] = {"webp": ("WebP", 16_383), "jpeg": ("JPEG", 65_500)}
"""Name and longest side of the formats that have one: WebP has 14 bits for it, and libjpeg refuses more."""


def encode_plain(colours: Pixels, alpha: Mask, form: Format, background: str | None = None) -> bytes:
    """Encode a cutout at its own size.

    Args:
        colours: Straight foreground colours, (H, W, 3) uint8.
        alpha: (H, W) uint8.
        form: The file format.
        background: A colour such as ``#ffffff``. None keeps the transparency; JPEG has none, so it gets white.

    Raises:
        WriteError: The picture is too large for the format.
    """
    check_size(form, Size(*alpha.shape))
    if form == "jpeg":
        background = background or "#ffffff"
    if background is None:
        if form == "png":
            return encode_cutout(colours, alpha)
        return _encode(np.dstack([colours * (alpha > 0)[..., None], alpha]), form)
    over, size = np.full(colours.shape, rgb(background), np.uint8), Size(*alpha.shape)
    if object_box(alpha) is not None:  # as in a rendition: haze alone is no object
        composite(over, premultiply(colours, alpha), None, Fit((0, 0, size.width, size.height), size, size, 0, 0))
    return encode_picture(over) if form == "png" else _encode(over, form)


def check_size(form: Format, size: Size) -> None:
    """Refuse a picture that is too large for a format.

    Raises:
        WriteError: It names the format, its limit, and those without one.
    """
    if form in LONGEST_SIDES_PX and max(size) > LONGEST_SIDES_PX[form][1]:
        name, longest = LONGEST_SIDES_PX[form]
        raise WriteError(
            f"a {name} file holds sides of up to {longest:,} pixels, and the picture is {size.width} x {size.height}; "
            "use .png or .tiff"
        )


def _encode(pixels: npt.NDArray[np.uint8], form: Literal["webp", "jpeg", "tiff"]) -> bytes:
    """Encode (H, W, 3) RGB or (H, W, 4) straight RGBA. JPEG and TIFF carry the sRGB profile."""
    if form != "tiff":
        return encode_lossy(pixels, form, None)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "TIFF", compression="tiff_adobe_deflate", icc_profile=srgb_profile())
    return sink.getvalue()
