"""Colours of the object itself where it is half transparent: what the background mixed in is taken out again.

Blur fusion, after Forte and Pitié, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): with α the opacity and
I the image, both colours are averaged over a neighbourhood, F̄ = blur(Fα)/blur(α) and B̄ = blur(B(1-α))/blur(1-α), and
F = F̄ + α(I - αF̄ - (1-α)B̄). A wide pass starts from F = B = I, a narrow one from its F and B̄.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Alpha, Pixels

OPAQUE = 0.996
"""From here on a pixel shows the object alone; 254 of 255 lies just above."""

TRANSPARENT = 0.5 / 255
"""Up to here a pixel's mask is 0 and its colour is never seen."""

WIDE_PX, NARROW_PX = 91, 7
"""Kernels of the two passes on an image whose longer side is ``SIDE_PX``."""

SIDE_PX = 1024

TILE_PX = 256
"""Side of the squares that are worked on one by one, so that memory doesn't grow with the image."""

Colours = npt.NDArray[np.floating[Any]]
"""(H, W, 3) in [0, 1]."""


def estimate_foreground(image: Pixels, alpha: Alpha, method: Literal["blur_fusion", "ben2", "none"]) -> Pixels:
    """Straight (not premultiplied) colours of the foreground.

    ``blur_fusion`` changes half-transparent pixels only; its kernels grow with the image. ``ben2`` changes every pixel,
    exactly as PramaLLC/BEN2 does with its ``refine_foreground``: kernels of 90 and 6 pixels at any size, levels
    truncated. ``none`` gives the image itself.

    Args:
        image: (H, W, 3) uint8.
        alpha: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) uint8. The colour of fully transparent pixels means nothing.
    """
    if method == "none":
        return image
    return _blur_fusion(image, alpha) if method == "blur_fusion" else _as_ben2(image, alpha)


def _blur_fusion(image: Pixels, alpha: Alpha) -> Pixels:
    """The wide pass averages on a reduced image (its result is smooth), the narrow one tile by tile; odd kernels."""
    foreground = image.copy()
    band = (alpha > TRANSPARENT) & (alpha < OPAQUE)
    if not band.any():
        return foreground
    height, width = alpha.shape
    scale = min(1.0, SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = _in_unit(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    small_shares = _thrice(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA))
    # Kernels grow with the long side, but not beyond four short ones: think of one pixel by a million.
    side_px = min(max(height, width), 4 * min(height, width))
    wide = _averages(small, small, small_shares, _odd(WIDE_PX * side_px * scale / SIDE_PX))
    narrow_px = _odd(NARROW_PX * side_px / SIDE_PX)
    for tile, seen, kept in _tiles(band, narrow_px // 2):
        colours, shares = _in_unit(image[seen]), _thrice(alpha[seen])
        near, far = (_enlarged(average, seen, (height, width)) for average in wide)
        first = _unmixed(colours, shares, near, far)
        second = _unmixed(colours, shares, *_averages(first, far, shares, narrow_px))
        levels = np.rint(second[kept] * 255).astype(np.uint8)
        np.copyto(foreground[tile], levels, where=band[tile][..., None])
    return foreground


def _as_ben2(image: Pixels, alpha: Alpha) -> Pixels:
    """Both passes at full size in double precision, as upstream; tiles change nothing."""
    foreground = image.copy()
    for tile, seen, kept in _tiles(np.ones(alpha.shape, bool), 90 // 2 + 6 // 2):
        colours, shares = image[seen] / 255, _thrice(alpha[seen].astype(np.float64))
        near, far = _averages(colours, colours, shares, 90)
        first = _unmixed(colours, shares, near, far)
        second = _unmixed(colours, shares, *_averages(first, far, shares, 6))
        foreground[tile] = (second[kept] * 255).astype(np.uint8)
    return foreground


def _in_unit(pixels: npt.NDArray[Any]) -> Colours:
    return pixels.astype(np.float32) / np.float32(255)


def _thrice(alpha: npt.NDArray[Any]) -> Colours:
    """Opacity beside every colour: the arithmetic on (H, W, 3) runs several times faster than with (H, W, 1)."""
    return np.asarray(cv2.merge([alpha, alpha, alpha]))


def _averages(foreground: Colours, background: Colours, shares: Colours, kernel_px: int) -> tuple[Colours, Colours]:
    """F̄ and B̄: colours averaged over a square, weighted by opacity and by transparency."""
    kernel = (kernel_px, kernel_px)
    opacity = cv2.blur(shares, kernel)
    near = cv2.blur(foreground * shares, kernel) / (opacity + 1e-5)
    far = cv2.blur(background * (1 - shares), kernel) / (1 - opacity + 1e-5)
    return near, far


def _unmixed(colours: Colours, shares: Colours, near: Colours, far: Colours) -> Colours:
    """F̄ + α(I - αF̄ - (1-α)B̄), kept in [0, 1]."""
    return np.clip(near + shares * (colours - shares * near - (1 - shares) * far), 0, 1)


def _odd(kernel_px: float) -> int:
    """The nearest odd kernel, at least 3 pixels; an even one would shift the colours by half a pixel."""
    return max(3, 2 * int(kernel_px / 2) + 1)


Part = tuple[slice, slice]
"""Rows and columns."""


def _tiles(wanted: npt.NDArray[np.bool_], reach: int) -> Iterator[tuple[Part, Part, Part]]:
    """Every tile with a wanted pixel: the tile, the part that its averages reach, and the tile within that part."""
    x0, y0, width, height = cv2.boundingRect(wanted.view(np.uint8))
    for top in range(y0, y0 + height, TILE_PX):
        for left in range(x0, x0 + width, TILE_PX):
            bottom, right = min(top + TILE_PX, y0 + height), min(left + TILE_PX, x0 + width)
            tile = (slice(top, bottom), slice(left, right))
            if not wanted[tile].any():
                continue
            above, before = max(top - reach, 0), max(left - reach, 0)
            seen = (
                slice(above, min(bottom + reach, wanted.shape[0])),
                slice(before, min(right + reach, wanted.shape[1])),
            )
            yield tile, seen, (slice(top - above, bottom - above), slice(left - before, right - before))


def _enlarged(small: Colours, seen: Part, size: tuple[int, int]) -> Colours:
    """A part of a reduced picture at full size (height, width), bilinear between pixel centres."""
    rows, columns = seen
    down, across = small.shape[0] / size[0], small.shape[1] / size[1]
    to_small = np.array(
        [[across, 0, (columns.start + 0.5) * across - 0.5], [0, down, (rows.start + 0.5) * down - 0.5]], np.float64
    )
    enlarged = cv2.warpAffine(
        small,
        to_small,
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(enlarged, np.float32)
