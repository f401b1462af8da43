"""Convert any image that Pillow loads to opaque 8-bit sRGB: sample depth, transparency, colour profile."""

from __future__ import annotations

import io
import re
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from pipeline.errors import DecodeError

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_PROFILED = {"RGB", "L", "CMYK", "LAB"}
"""Modes that a profile can be for; other modes are converted to RGB first."""

_MAX_CACHED_BYTES = 2**20
_TAGS_END = 132 + 12 * 100
"""Largest end of a profile's list of tags: LittleCMS reads at most a hundred."""


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image of any mode to mode RGB: 8 bits, profile applied, transparency composited over white.

    Samples of 16 bits are scaled to 8 bits. A damaged profile, or one for another mode, is ignored. CMYK without a profile is
    converted by the plain formula.

    Raises:
        DecodeError: The samples have no defined white (float, 32-bit integers).
    """
    profile = image.info.get("icc_profile")
    image, opacity = _split(_eight_bits(image))
    if image.mode not in _PROFILED:
        image = image.convert("RGB")
    transform = _transform_for(profile, image.mode) if isinstance(profile, bytes) or image.mode == "LAB" else None
    if transform is not None:
        image = transform.apply(image)
    colour = image if image.mode == "RGB" else image.convert("RGB")  # convert always copies
    if opacity is None:
        return colour
    white = Image.new("RGB", colour.size, "white")
    white.paste(colour, mask=opacity)
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """Round grey of 9 to 16 bits to 8 bits; return other 8-bit modes as they are."""
    if image.mode in {"I", "F"}:
        kind = "float" if image.mode == "F" else "32-bit or signed integer"
        raise DecodeError(
            f"its samples are {kind} numbers, which have no defined white; save it with unsigned 8 or 16 bits per channel"
        )
    if not image.mode.startswith("I;16"):
        return image
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 bits per sample, 262 = 0 when white is 0
    bits = min(16, *tags.get(258, (16,)))
    scale = np.rint(np.minimum(np.arange(65536) / (2**bits - 1), 1) * 255).astype(np.uint8)
    if tags.get(262) == 0:
        scale = 255 - scale
    samples = np.asarray(image)
    grey = Image.fromarray(scale[samples])
    key = image.info.get("transparency")
    if key is None:
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(samples == key, 0, 255).astype(np.uint8))))


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Split an image into opaque colours and its opacity as mode L, None if all pixels are opaque."""
    if not image.has_transparency_data:
        return image, None
    grey = image.mode in {"1", "L", "LA", "La"}
    image = image.convert("LA" if grey else "RGBA")
    opacity = image.getchannel("A")
    opaque = image.getchannel("L") if grey else image.convert("RGB")
    return opaque, None if opacity.getextrema() == (255, 255) else opacity


def _transform_for(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile, from a cache if the profile is small."""
    if profile is None or len(profile) <= _MAX_CACHED_BYTES:
        return _cached_transform(profile, mode)
    return _transform(profile, mode)


def _transform(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Build the perceptual transform from a profile (LAB needs none) to sRGB; None if it is an identity or the profile is bad.

    LittleCMS refuses a profile for another mode than the image's.
    """
    try:
        if mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(_without_float_tables(profile or b"")))
        transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB", ImageCms.Intent.PERCEPTUAL)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if mode == "RGB" and _changes_nothing(transform) else transform


_cached_transform = lru_cache(maxsize=32)(_transform)


def _without_float_tables(profile: bytes) -> bytes:
    """Rename a profile's tags D2B0 to D2B3, so that LittleCMS ignores them.

    ICC.1:2022 allows any number of stages in them, and a megabyte of stages keeps LittleCMS busy for minutes. Every profile has
    A2B0 or primaries as well.
    """
    return re.sub(rb"D2B(?=[0-3])", b"x2B", profile[:_TAGS_END]) + profile[_TAGS_END:]


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform moves no colour of a 17x17x17 grid by more than one level: the profile is in effect sRGB."""
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(17, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(grid)))
    return int(np.abs(moved.astype(int) - grid).max()) <= 1
