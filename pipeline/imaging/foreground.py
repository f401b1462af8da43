"""Colours of the object itself where it is half transparent: what the background mixed in is taken out again.

``multilevel`` has a module of its own. Blur fusion, after Forte and Pitié, "Approximate Fast Foreground Colour Estimation"
(ICIP 2021): with α the opacity and I the image, both colours are averaged over a neighbourhood, F̄ = blur(Fα)/blur(α) and
B̄ = blur(B(1-α))/blur(1-α), and F = F̄ + α(I - αF̄ - (1-α)B̄). A wide pass starts from F = B = I, a narrow one from its F and B̄.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.multilevel import apply, beside, estimate_colours, unmixed
from pipeline.types import Alpha, Mask, Pixels, as_alpha

OPAQUE = 254
"""From this level on a pixel shows the object alone."""

WIDE_PX, NARROW_PX = 91, 7
"""Kernels of the two passes on an image whose longer side is ``SIDE_PX``."""

SIDE_PX = 1024

TILE_PX = 128
"""Side of the squares that are worked on one by one, so that what they need stays in a core's cache."""

Colours = npt.NDArray[np.floating[Any]]
"""(H, W, 3), black 0, white 255 or 1."""


def estimate_foreground(image: Pixels, mask: Mask, method: Literal["multilevel", "blur_fusion", "ben2", "none"]) -> Pixels:
    """Straight (not premultiplied) colours of the foreground.

    ``multilevel`` and ``blur_fusion`` change half-transparent pixels only, in the same way at any size of a scene.
    ``ben2`` changes every pixel, exactly as PramaLLC/BEN2 does with its ``refine_foreground``: kernels of 90 and 6
    pixels at any size, levels truncated. ``none`` gives the image itself.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8.

    Returns:
        (H, W, 3) uint8. The colour of fully transparent pixels means nothing.
    """
    if method == "none":
        return image
    if method == "multilevel":
        foreground = image.copy()
        if not cv2.inRange(mask, 1, OPAQUE - 1).any():
            return foreground
        apply(estimate_colours(image, mask), image, mask, (1, OPAQUE - 1), foreground)
        return foreground
    return _blur_fusion(image, mask) if method == "blur_fusion" else _as_ben2(image, mask)


def _blur_fusion(image: Pixels, mask: Mask) -> Pixels:
    """Both passes on what the half-transparent band can see, with odd kernels.

    The wide averages, and the narrow one of the background's, are smooth: a reduced image will do. The foreground's narrow
    one is made at full size, tile by tile.
    """
    foreground = image.copy()
    band = np.asarray(cv2.inRange(mask, 1, OPAQUE - 1), np.uint8)
    if not band.any():
        return foreground
    longer, shorter = max(mask.shape), min(mask.shape)
    scale = min(1.0, SIDE_PX / longer)
    # Kernels grow with the long side, but not beyond four short ones: think of one pixel by a million.
    large = min(longer, 4 * shorter) / SIDE_PX
    wide_px, small_px, narrow_px = _odd(WIDE_PX * large * scale), _odd(NARROW_PX * large * scale), _odd(NARROW_PX * large)

    part = _around(band, int((wide_px / 2 + small_px + 1) / scale))
    image, mask, band = image[part], mask[part], band[part]
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    # One more channel, of no meaning: OpenCV enlarges four in half the time of three.
    small = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2RGBA)
    small_shares = np.asarray(cv2.resize(as_alpha(mask), size, interpolation=cv2.INTER_AREA), np.float32)
    near = _average(small, small_shares, wide_px)
    far = _average(small, 1 - small_shares, wide_px)
    far_narrow = _average(far, 1 - small_shares, small_px)

    for tile, seen, kept in _tiles(band, narrow_px // 2, TILE_PX):
        colours, shares = image[seen].astype(np.float32), as_alpha(mask[seen])
        first = unmixed(colours, shares, _enlarged(near, seen, mask.shape), _enlarged(far, seen, mask.shape))
        near_narrow = _average(first, shares, narrow_px)[kept]
        second = unmixed(colours[kept], shares[kept], near_narrow, _enlarged(far_narrow, tile, mask.shape))
        cv2.copyTo(np.rint(second).astype(np.uint8), band[tile], foreground[part][tile])
    return foreground


def _as_ben2(image: Pixels, mask: Mask) -> Pixels:
    """Both passes at full size in double precision, as upstream; tiles change nothing."""
    foreground = image.copy()
    for tile, seen, kept in _tiles(np.ones_like(mask), 90 // 2 + 6 // 2, 2 * TILE_PX):
        colours = image[seen] / 255
        first, far = _published_pass(colours, colours, colours, as_alpha(mask[seen]), 90)
        second, _ = _published_pass(colours, first, far, as_alpha(mask[seen]), 6)
        foreground[tile] = (second[kept] * 255).astype(np.uint8)
    return foreground


def _published_pass(
    colours: Colours, foreground: Colours, background: Colours, alpha: Alpha, kernel_px: int
) -> tuple[Colours, Colours]:
    """F and B̄, step by step as they were published: where levels are truncated, the last bit decides."""
    shares, kernel = beside(alpha.astype(np.float64), 3), (kernel_px, kernel_px)
    opacity = cv2.blur(shares, kernel)
    near = cv2.blur(foreground * shares, kernel) / (opacity + 1e-5)
    far = cv2.blur(background * (1 - shares), kernel) / (1 - opacity + 1e-5)
    return np.clip(near + shares * (colours - shares * near - (1 - shares) * far), 0, 1), far


def _average(colours: npt.NDArray[Any], shares: Alpha, kernel_px: int) -> Colours:
    """Colours (H, W, channels) averaged over a square, weighted by shares (H, W)."""
    kernel, channels = (kernel_px, kernel_px), colours.shape[2]
    averages = np.asarray(cv2.blur(colours * beside(shares, channels), kernel), np.float32)
    averages *= beside(1 / (cv2.blur(shares, kernel) + np.float32(1e-5)), channels)
    return averages


def _odd(kernel_px: float) -> int:
    """The nearest odd kernel, at least 3 pixels; an even one would shift the colours by half a pixel."""
    return max(3, 2 * int(kernel_px / 2) + 1)


Part = tuple[slice, slice]
"""Rows and columns."""


def _around(wanted: npt.NDArray[np.uint8], reach: int) -> Part:
    """The least rectangle with all wanted pixels (those not 0) and what lies within reach of them; empty without any."""
    x, y, width, height = cv2.boundingRect(wanted)
    return slice(max(y - reach, 0), y + height + reach), slice(max(x - reach, 0), x + width + reach)


def _tiles(wanted: npt.NDArray[np.uint8], reach: int, side: int) -> Iterator[tuple[Part, Part, Part]]:
    """Rectangles of at most ``side`` with all wanted pixels: each, the part that its averages reach, and it within that."""
    height, width = wanted.shape
    for start_y in range(0, height, side):
        for start_x in range(0, width, side):
            x, y, across, down = cv2.boundingRect(wanted[start_y : start_y + side, start_x : start_x + side])
            if not across:
                continue
            top, left = start_y + y, start_x + x
            bottom, right = top + down, left + across
            above, before = max(top - reach, 0), max(left - reach, 0)
            yield (
                (slice(top, bottom), slice(left, right)),
                (slice(above, min(bottom + reach, height)), slice(before, min(right + reach, width))),
                (slice(top - above, bottom - above), slice(left - before, right - before)),
            )


def _enlarged(small: Colours, seen: Part, size: tuple[int, int]) -> Colours:
    """A part of a reduced picture (h, w, 4) at full size (height, width), bilinear between pixel centres; its first three."""
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
    return np.asarray(cv2.cvtColor(enlarged, cv2.COLOR_RGBA2RGB), np.float32)
