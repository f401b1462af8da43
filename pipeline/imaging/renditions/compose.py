"""An object over nothing, a colour or a picture, with or without a shadow.

Objects are resized with colours multiplied by their opacity, so that no colour of a transparent pixel comes in. The product of
a colour and an opacity of 8 bits has its place in 16 bits without being rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.encode import stripes
from pipeline.imaging.multilevel import broadcast_alpha
from pipeline.imaging.renditions.fit import Fit
from pipeline.imaging.renditions.shadow import Cast
from pipeline.types import Alpha, Mask, Pixels, Size

FULL = 255 * 255
"""An opacity of 1 in 16 bits."""


class Layer(NamedTuple):
    """A part of the object: premultiplied colours (h, w, 3) and opacity (h, w), uint16, 1 being ``FULL``."""

    colours: npt.NDArray[np.uint16]
    alpha: npt.NDArray[np.uint16]


def premultiplied(image: Pixels, mask: Mask) -> Layer:
    """Straight colours (h, w, 3) and opacity (h, w), uint8, as a layer: exactly."""
    colours = np.empty(image.shape, np.uint16)
    for stripe in stripes(mask.shape[0], 4 * mask.shape[1]):
        np.multiply(image[stripe], broadcast_alpha(mask[stripe]), out=colours[stripe], dtype=np.uint16)
    return Layer(colours, np.multiply(mask, 255, dtype=np.uint16))


def layer_at(layer: Layer, size: Size) -> Layer:
    """The layer resized: antialiased where it shrinks, bicubic where it grows."""
    if layer.alpha.shape == size:
        return layer
    if size.height <= layer.alpha.shape[0] and size.width <= layer.alpha.shape[1]:
        return Layer(resized(layer.colours, size), resized(layer.alpha, size))
    # Bicubic enlarging overshoots at edges: where opacity goes beyond 1, colours go too far by the same factor.
    colours, alpha = (resized(plane.astype(np.float32), size) for plane in layer)
    colours *= broadcast_alpha(FULL / np.maximum(alpha, FULL))
    alpha = np.clip(alpha, 0, FULL)
    colours = np.clip(colours, 0, broadcast_alpha(alpha))
    return Layer(np.rint(colours).astype(np.uint16), np.rint(alpha).astype(np.uint16))


def over(picture: Pixels, layer: Layer, shade: Cast | None, placed: Fit) -> None:
    """Lay a shadow, and over it the object, on a picture (H, W, 3) of the frame's size, which is changed."""
    if shade is not None:
        rows, columns = shade.opacity.shape
        part = picture[shade.top : shade.top + rows, shade.left : shade.left + columns]
        part[:] = np.rint(part * broadcast_alpha(1 - shade.opacity))
    share, inner = opacity(layer), picture[_inside(placed)]
    for stripe in stripes(share.shape[0], 4 * share.shape[1]):
        mixed = broadcast_alpha(1 - share[stripe])
        mixed *= inner[stripe]
        mixed += layer.colours[stripe] * np.float32(1 / 255)
        inner[stripe] = np.rint(np.minimum(mixed, 255, out=mixed), out=mixed)


def straight(layer: Layer, shade: Cast | None, placed: Fit) -> tuple[Pixels, Mask]:
    """Straight colours and opacity of the whole frame, the shadow's black behind the object's colours."""
    share = opacity(layer)
    alpha = on_frame(share, placed)
    if shade is not None:
        rows, columns = shade.opacity.shape
        part = alpha[shade.top : shade.top + rows, shade.left : shade.left + columns]
        part += shade.opacity * (1 - part)
    colours = np.zeros((*placed.size, 3), np.uint8)
    inner, weights = colours[_inside(placed)], alpha[_inside(placed)]
    for stripe in stripes(share.shape[0], 4 * share.shape[1]):
        found = layer.colours[stripe] / broadcast_alpha(np.maximum(weights[stripe], np.float32(1 / FULL)) * np.float32(255))
        inner[stripe] = np.rint(np.minimum(found, 255, out=found), out=found)
    return colours, np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)


def opacity(layer: Layer) -> Alpha:
    """(h, w) float32 in [0, 1]."""
    return np.multiply(layer.alpha, np.float32(1 / FULL), dtype=np.float32)


def resized(plane: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    """(h, w, …) antialiased where it shrinks, bicubic where it grows, the same where it stays."""
    if plane.shape[:2] == size:
        return plane
    shrinks = size.height <= plane.shape[0] and size.width <= plane.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(plane, size[::-1], interpolation=how)).reshape(*size, *plane.shape[2:])


def on_frame(part: npt.NDArray[Any], placed: Fit) -> npt.NDArray[Any]:
    """A part (h, w, …) in its place on a frame of zeros."""
    frame = np.zeros((*placed.size, *part.shape[2:]), part.dtype)
    frame[_inside(placed)] = part
    return frame


def _inside(placed: Fit) -> tuple[slice, slice]:
    """Rows and columns of the frame in which the object's part lies."""
    return slice(placed.top, placed.top + placed.inner.height), slice(placed.left, placed.left + placed.inner.width)
