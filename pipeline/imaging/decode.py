"""Decode untrusted image bytes. All images enter through this module."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
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
from pipeline.imaging import avif
from pipeline.imaging.colour import to_srgb
from pipeline.imaging.container import (
    canvas_size,
    check_gif,
    check_jpeg,
    check_png,
    check_size,
    check_tiff,
    png_colours,
    seek_full_page,
    without_metadata,
)
from pipeline.imaging.icc import Colours, coded_colours, profile
from pipeline.imaging.sniff import Format, sniff
from pipeline.types import Pixels, Size

SAMPLES = 4
"""Bytes per pixel in Pillow's memory of an RGB image."""

BLOCK_PX = 2**24 // SAMPLES
"""Pixels of the largest RGB image that Pillow keeps in one block of memory."""

STRIPE_PX = 2**18
"""Pixels of a larger image that are copied at a time, to stay in a core's cache."""

# Keep 64 MiB of freed image memory for the next image: allocating it again takes as long as half of the decoding.
Image.core.set_blocks_max(4)  # type: ignore[attr-defined]

# A damaged file can cause tens of thousands of warnings, and Python keeps each distinct one forever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_CHECKS: dict[Format, Callable[[bytes], None]] = {"JPEG": check_jpeg, "PNG": check_png, "GIF": check_gif}


class _OneFrame(ImageFile.ImageFile):
    """Free the decoder after the first frame: it keeps up to three copies of it."""

    def load_prepare(self) -> None:
        self._decoder = None
        super().load_prepare()


class _WebPImageFile(_OneFrame, WebPImagePlugin.WebPImageFile):
    pass


class _AvifImageFile(_OneFrame, AvifImagePlugin.AvifImageFile):
    pass


# Call the format's class directly: PIL.Image.open tries every registered format and applies a pixel limit of its own, which can
# only be changed per process. (Its GIF, TIFF and WebP readers apply that limit anyway and refuse above 178 million pixels.)
_OPENERS: dict[Format, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": _WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
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
_ON_ITS_SIDE = {turn for code, turn in _UPRIGHT.items() if code > 4}
"""Turns that exchange width and height."""


def decode(data: bytes, limits: Limits) -> Pixels:
    """Decode the first frame or full page: upright, in sRGB, transparency composited over white.

    An incomplete picture is an error, even where browsers show the rest of it. A JPEG or PNG must have its end mark. In other
    formats only data behind the first frame may be missing. Data behind the end of any file is ignored. Damage is detected in a
    PNG's pixels always, by their checksums, and in other formats where the decoder fails.

    Returns:
        (H, W, 3) uint8, C-contiguous, writable.

    Raises:
        DecodeError: The bytes are no supported image, cut off, damaged, or above the limits (compared with the header, before
            decoding).
    """
    return _decode(data, limits, None)[0]


def decode_preview(data: bytes, limits: Limits, side_px: int) -> tuple[Pixels, Size]:
    """Decode an image for a small picture of it: a JPEG at 1/2, 1/4 or 1/8 of its size, if that leaves enough pixels.

    libjpeg then computes fewer pixels, so that a large photo takes a third of the time. Other formats are decoded completely.
    The longer side keeps at least ``side_px`` pixels, unless the image is smaller.

    Returns:
        As ``decode``, and the image's full height and width.

    Raises:
        DecodeError: As ``decode``.
    """
    return _decode(data, limits, side_px)


def _decode(data: bytes, limits: Limits, side_px: int | None) -> tuple[Pixels, Size]:
    if len(data) > limits.max_bytes:
        raise DecodeError(f"the file has {len(data):,} bytes; limits.max_bytes allows {limits.max_bytes:,}")
    form = sniff(data)
    try:
        image: Image.Image = _open(data, form, limits)
        full = image.size
        if side_px is not None:
            longer = max(full)
            image.draft(None, (ceil(full[0] * side_px / longer), ceil(full[1] * side_px / longer)))
        image.load()
        check_size(image.size, limits)
        turn = _turn(image)
        image = image if turn is None else image.transpose(turn)  # frees the other
        width, height = full[::-1] if turn in _ON_ITS_SIDE else full
        return _copied(to_srgb(image)), Size(height, width)
    except DecodeError as error:
        raise DecodeError(f"this {form} can't be used: {error}") from error.__cause__
    except MemoryError as error:
        raise DecodeError(f"this {form} needs more memory than is available; lower limits.max_pixels") from error
    except Exception as error:
        # Decoders raise anything on damaged bytes: SyntaxError, struct.error, UnboundLocalError …
        raise DecodeError(f"this {form} {_describe_failure(error)}") from error


def decode_stored(data: bytes, limits: Limits) -> npt.NDArray[Any] | None:
    """Return the samples of the first frame as they are stored, upright, if ``decode`` changes them. Call ``decode`` first.

    Returns:
        (H, W) uint16 of grey with 16 bits; (H, W, 4) uint8, straight RGBA, of a picture with transparency; None for others.

    Raises:
        DecodeError: As ``decode``.
    """
    try:
        image = _open(data, sniff(data), limits)
        if image.mode.startswith("I;16"):
            return np.array(upright(_loaded(image))).astype(np.uint16)
        if not image.has_transparency_data:
            return None
        return np.array(upright(_loaded(image)).convert("RGBA"))
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(f"its transparency {_describe_failure(error)}") from error


def has_deep_samples(data: bytes) -> bool:
    """Return whether a PNG or TIFF that ``decode`` takes has 16 bits per sample."""
    form = sniff(data)
    if form == "PNG":
        return data[24] == 16
    return form == "TIFF" and max(TiffImagePlugin.TiffImageFile(io.BytesIO(data)).tag_v2.get(258, (1,))) == 16


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


def _open(data: bytes, form: Format, limits: Limits) -> ImageFile.ImageFile:
    """Check the container, read the header and compare the size with the limits."""
    image = _read_header(data, form, limits)
    check_size(image.size, limits)
    return image


def _read_header(data: bytes, form: Format, limits: Limits) -> ImageFile.ImageFile:
    if form == "HEIC":
        image = _heif_opener()(io.BytesIO(data))
        code = {} if "icc_profile" in image.info else image.info.get("nclx_profile") or {}
        _describe_colours(image, coded_colours(code.get("color_primaries", 2), code.get("transfer_characteristics", 2)))
        return image
    if form == "AVIF":
        return _open_avif(data, limits)
    if form in _CHECKS:
        _CHECKS[form](data)
    if size := canvas_size(data, form):
        check_size(size, limits)
    image = _OPENERS[form](io.BytesIO(without_metadata(data) if form == "PNG" else data))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        seek_full_page(image)
        check_tiff(image)
    if form == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise DecodeError("its inks lack Adobe's marker, so that full and no ink can't be told apart; save it as RGB")
    if form == "PNG":
        _describe_colours(image, png_colours(data))
        _scale_transparent_colour(image, depth=data[24])
    return image


def _open_avif(data: bytes, limits: Limits) -> ImageFile.ImageFile:
    if not AvifImagePlugin.SUPPORTED:
        raise DecodeError("this build of Pillow does not support AVIF; install Pillow's own wheel")
    header = avif.read_header(data)
    if header.size:
        check_size(header.size, limits)
    avif.check_coded_sizes(data, header)
    image = _AvifImageFile(io.BytesIO(data))
    if header.colours and "icc_profile" not in image.info:
        _describe_colours(image, coded_colours(*header.colours))
    return image


def _heif_opener() -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise DecodeError("reading it needs one more package: pip install 'matteline[heif]'") from error
    return cast(Callable[[io.BytesIO], ImageFile.ImageFile], HeifImageFile)


def _describe_colours(image: Image.Image, colours: Colours | None) -> None:
    """Give an image the profile of its colours."""
    if colours:
        image.info["icc_profile"] = profile(colours, grey=image.mode in {"L", "LA", "I;16"})


def upright(image: Image.Image) -> Image.Image:
    """Apply the orientation of a loaded image's EXIF (or XMP). An unreadable orientation counts as none."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001  damaged metadata is no reason to refuse the picture
        return None


def _copied(image: Image.Image) -> Pixels:
    """Copy an RGB image's pixels; one of several blocks of memory stripe by stripe, which Pillow would copy three times."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = height if width * height <= BLOCK_PX else max(1, STRIPE_PX // width)
    for top in range(0, height, rows):
        stripe = image if rows == height else image.crop((0, top, width, min(top + rows, height)))
        _copy_into(pixels[top : top + rows], stripe)
    return pixels


def _copy_into(pixels: Pixels, image: Image.Image) -> None:
    """Copy an RGB image to an array (H, W, 3), from Pillow's own memory where that is possible."""
    import cv2  # slow, and not needed by a command that decodes nothing

    if Image.core.get_alignment() <= SAMPLES:  # type: ignore[attr-defined]  # else a gap may follow each row
        with suppress(ValueError):  # it is in several blocks
            # Not pa.array(image), which imports pandas.
            array = pa.Array._import_from_c_capsule(*image.__arrow_c_array__())
            samples = np.frombuffer(array.buffers()[-1], np.uint8).reshape(*pixels.shape[:2], SAMPLES)
            cv2.cvtColor(samples, cv2.COLOR_RGBA2RGB, dst=pixels)
            return
    pixels[:] = np.asarray(image)


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Scale a PNG's transparent colour from the file's sample depth to the 8 bits of Pillow's samples."""
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * 255 // (2**depth - 1)
    elif isinstance(key, tuple) and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _describe_failure(error: Exception) -> str:
    """Say what is wrong and how to fix it, from the decoder's message."""
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", str(error))).strip()[:160] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"is larger than its decoder allows ({words}); save it as PNG or JPEG"
    if re.search(r"truncat|not enough|insufficient|end of file|outside of file", words, re.IGNORECASE):
        return f"is cut off ({words}); fetch it again"
    if re.search(r"unsupported|not supported|cannot handle|unknown|not implemented", words, re.IGNORECASE):
        return f"is damaged or of an unsupported kind ({words}); save it again as an 8-bit PNG or JPEG"
    return f"is damaged ({words}); fetch or export it again"
