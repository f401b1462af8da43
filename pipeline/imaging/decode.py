"""The one door through which foreign image bytes come in."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import cast

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.colour import to_srgb
from pipeline.imaging.container import screen_gif, screen_jpeg, screen_png, screen_tiff
from pipeline.imaging.sniff import Format, recognise
from pipeline.types import Pixels

MAX_SIDE_PX = 1_000_000
"""libpng reads nothing wider or higher, so nobody would read the mask."""

STRIPE_PX = 2**18
"""Pixels that leave Pillow's memory at once: what stays in a core's cache."""

# A damaged file can set off tens of thousands of warnings, and Python keeps each distinct one for good.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_SCREENS: dict[Format, Callable[[bytes], None]] = {"JPEG": screen_jpeg, "PNG": screen_png, "GIF": screen_gif}

# The format's class is called directly: PIL.Image.open would try every registered format and apply a pixel limit of its
# own that can only be changed for the whole process (its GIF, TIFF and WebP readers hold to that one all the same: above
# 178 million pixels they refuse, whatever our limits say).
_OPENERS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, limits: Limits) -> Pixels:
    """The image in these bytes: the first frame or page, upright, in sRGB, transparency laid over white.

    A picture that isn't all there is an error, though browsers show what is left of it: here nobody looks. A JPEG or PNG
    must have its end mark; of the other formats only what follows the first frame may be missing, and what follows the end
    of any file is ignored. Damage is seen as far as a format can show it: in a PNG's pixels always, by their checksums, in
    other formats where the decoder stumbles.

    Returns:
        (H, W, 3) uint8, C-contiguous, writable.

    Raises:
        DecodeError: the bytes are no image that is read, cut off, damaged, or above the limits (which are held against
            the header, before anything is decoded).
    """
    if len(data) > limits.max_bytes:
        raise DecodeError(f"the file has {len(data):,} bytes; limits.max_bytes allows {limits.max_bytes:,}")
    form = recognise(data)
    try:
        image = _open(data, form)
        _check_size(image, limits)
        image.load()
        _check_size(image, limits)
        return _copied(to_srgb(upright(image)))
    except DecodeError as error:
        raise DecodeError(f"this {form} can't be used: {error}") from error.__cause__
    except MemoryError as error:
        raise DecodeError(f"this {form} needs more memory than there is; lower limits.max_pixels") from error
    except Exception as error:
        # Decoders answer damaged bytes with whatever they tripped over: SyntaxError, struct.error, UnboundLocalError …
        raise DecodeError(f"this {form} {_complaint(error)}") from error


def _open(data: bytes, form: Format) -> ImageFile.ImageFile:
    """The image with its header read."""
    if form == "HEIC":
        return _heif_opener()(io.BytesIO(data))
    if form == "AVIF" and not AvifImagePlugin.SUPPORTED:
        raise DecodeError("this build of Pillow reads no AVIF; install Pillow's own wheel")
    if form in _SCREENS:
        _SCREENS[form](data)
    image = _OPENERS[form](io.BytesIO(data))
    if form == "TIFF":
        screen_tiff(image)
    if form == "PNG":
        _scale_transparent_colour(image, depth=data[24])
    return image


def _heif_opener() -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise DecodeError("reading it needs one more package: pip install 'matteline[heif]'") from error
    return cast(Callable[[io.BytesIO], ImageFile.ImageFile], HeifImageFile)


def _check_size(image: Image.Image, limits: Limits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise DecodeError(f"it is {width} wide and {height} high")
    if width * height > limits.max_pixels:
        raise DecodeError(
            f"it is {width:,} wide and {height:,} high, {width * height:,} pixels; "
            f"limits.max_pixels allows {limits.max_pixels:,}"
        )
    if max(width, height) > MAX_SIDE_PX:
        raise DecodeError(f"it is {width:,} wide and {height:,} high; no side may exceed {MAX_SIDE_PX:,} pixels")


def upright(image: Image.Image) -> Image.Image:
    """A loaded image turned as its EXIF (or XMP) asks; an unreadable orientation counts as none."""
    try:
        turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001 - metadata must not cost the picture
        return image
    return image if turn is None else image.transpose(turn)


def _copied(image: Image.Image) -> Pixels:
    """An RGB image's pixels, stripe by stripe: as a whole they would be copied three times over."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, STRIPE_PX // width)
    for top in range(0, height, rows):
        pixels[top : top + rows] = np.asarray(image.crop((0, top, width, min(top + rows, height))))
    return pixels


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Bring a PNG's transparent colour, given in the file's own sample depth, to the 8 bits of Pillow's samples."""
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _complaint(error: Exception) -> str:
    """What is wrong and how to mend it, from the decoder's own words."""
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", str(error))).strip()[:160] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"is larger than its decoder takes ({words}); save it as PNG or JPEG"
    if re.search(r"truncat|not enough|insufficient|end of file|outside of file", words, re.IGNORECASE):
        return f"is cut off ({words}); fetch it again"
    if re.search(r"unsupported|not supported|cannot handle|unknown|not implemented", words, re.IGNORECASE):
        return f"is damaged or of a kind that isn't read ({words}); save it again as an 8-bit PNG or JPEG"
    return f"is damaged ({words}); fetch or export it again"
