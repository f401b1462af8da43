"""Composite an object over a transparent, plain or picture background, with or without a shadow.

Objects are resized with premultiplied colours, so no colour of a transparent pixel bleeds in. The product of a colour and an
opacity of 8 bits each fits 16 bits without rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.multilevel import broadcast_alpha
from pipeline.imaging.png import stripes
from pipeline.imaging.renditions.fit import Fit
from pipeline.imaging.renditions.shadow import CastShadow
from pipeline.types import Alpha, Mask, Pixels, Size

FULL = 255 * 255
"""An opacity of 1 in 16 bits."""


class Layer(NamedTuple):
    """Premultiplied colours (h, w, 3) and opacity (h, w) of the object, uint16 with 1 as ``FULL``."""

    colours: npt.NDArray[np.uint16]
    alpha: npt.NDArray[np.uint16]


def premultiply(image: Pixels, mask: Mask) -> Layer:
    """Convert straight colours (h, w, 3) and opacity (h, w), uint8, to a layer, without rounding."""
    colours = np.empty(image.shape, np.uint16)
    for stripe in stripes(mask.shape[0], 4 * mask.shape[1]):
        np.multiply(image[stripe], broadcast_alpha(mask[stripe]), out=colours[stripe], dtype=np.uint16)
    return Layer(colours, np.multiply(mask, 255, dtype=np.uint16))


def resize_layer(layer: Layer, size: Size) -> Layer:
    """Resize a layer: antialiased where it shrinks, bicubic where it grows."""
    if layer.alpha.shape == size:
        return layer
    if size.height <= layer.alpha.shape[0] and size.width <= layer.alpha.shape[1]:
        return Layer(resize(layer.colours, size), resize(layer.alpha, size))
    # Bicubic interpolation overshoots at edges. Where opacity exceeds 1, the colours are too large by the same factor.
    colours, alpha = (resize(plane.astype(np.float32), size) for plane in layer)
    colours *= broadcast_alpha(FULL / np.maximum(alpha, FULL))
    alpha = np.clip(alpha, 0, FULL)
    colours = np.clip(colours, 0, broadcast_alpha(alpha))
    return Layer(np.rint(colours).astype(np.uint16), np.rint(alpha).astype(np.uint16))


def composite(picture: Pixels, layer: Layer, shadow: CastShadow | None, placed: Fit) -> None:
    """Draw the shadow, then the object, on a picture (H, W, 3) of the frame's size, in place."""
    if shadow is not None:
        part = picture[shadow.area]
        for stripe in stripes(part.shape[0], 4 * part.shape[1]):
            part[stripe] = np.rint(part[stripe] * broadcast_alpha(1 - shadow.opacity[stripe]))
    share, inner = opacity(layer), picture[placed.area]
    for stripe in stripes(share.shape[0], 4 * share.shape[1]):
        mixed = broadcast_alpha(1 - share[stripe])
        mixed *= inner[stripe]
        mixed += layer.colours[stripe] * np.float32(1 / 255)
        inner[stripe] = np.rint(np.minimum(mixed, 255, out=mixed), out=mixed)


def unpremultiply(layer: Layer, shadow: CastShadow | None, placed: Fit) -> tuple[Pixels, Mask]:
    """Return straight colours and opacity of the complete frame, with the black shadow behind the object."""
    share = opacity(layer)
    alpha = on_frame(share, placed)
    if shadow is not None:
        part = alpha[shadow.area]
        part += shadow.opacity * (1 - part)
    colours = np.zeros((*placed.size, 3), np.uint8)
    inner, weights = colours[placed.area], alpha[placed.area]
    for stripe in stripes(share.shape[0], 4 * share.shape[1]):
        straight = layer.colours[stripe] / broadcast_alpha(np.maximum(weights[stripe], np.float32(1 / FULL)) * np.float32(255))
        inner[stripe] = np.rint(np.minimum(straight, 255, out=straight), out=straight)
    return colours, np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)


def opacity(layer: Layer) -> Alpha:
    """Return the opacity (h, w), float32 in [0, 1]."""
    return np.multiply(layer.alpha, np.float32(1 / FULL), dtype=np.float32)


def resize(plane: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    """Resize (h, w, …): antialiased where it shrinks, bicubic where it grows, unchanged at the same size."""
    if plane.shape[:2] == size:
        return plane
    shrinks = size.height <= plane.shape[0] and size.width <= plane.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(plane, size[::-1], interpolation=interpolation)).reshape(*size, *plane.shape[2:])


def on_frame(part: npt.NDArray[Any], placed: Fit) -> npt.NDArray[Any]:
    """Place a part (h, w, …) on a frame of zeros."""
    frame = np.zeros((*placed.size, *part.shape[2:]), part.dtype)
    frame[placed.area] = part
    return frame
