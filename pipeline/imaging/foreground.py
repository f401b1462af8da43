"""Estimate the object's own colours where it is partly transparent, without the background that is mixed in.

``multilevel`` has a module of its own. ``ben2`` is blur fusion as PramaLLC/BEN2 ships it, after Forte and Pitié,
"Approximate Fast Foreground Colour Estimation" (ICIP 2021): with opacity α and image I, both colours are averaged over a
neighbourhood, F̄ = blur(Fα)/blur(α) and B̄ = blur(B(1-α))/blur(1-α), and F = F̄ + α(I - αF̄ - (1-α)B̄). A wide pass starts
from F = B = I, a narrow one from its F and B̄.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.multilevel import apply, broadcast_alpha, estimate_colours
from pipeline.types import Alpha, Mask, Pixels, as_alpha

OPAQUE = 254
"""From this level on a pixel shows the object alone."""

TILE_PX = 128
"""Side of the squares that are worked on one by one, so that what they need stays in a core's cache."""

Colours = npt.NDArray[np.floating[Any]]
"""(H, W, 3), black 0, white 255 or 1."""


def estimate_foreground(image: Pixels, mask: Mask, method: Literal["multilevel", "ben2", "none"]) -> Pixels:
    """Straight (not premultiplied) colours of the foreground.

    ``multilevel`` changes partly transparent pixels only.
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
    return _as_ben2(image, mask)


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
    shares, kernel = broadcast_alpha(alpha.astype(np.float64), 3), (kernel_px, kernel_px)
    opacity = cv2.blur(shares, kernel)
    near = cv2.blur(foreground * shares, kernel) / (opacity + 1e-5)
    far = cv2.blur(background * (1 - shares), kernel) / (1 - opacity + 1e-5)
    return np.clip(near + shares * (colours - shares * near - (1 - shares) * far), 0, 1), far


Part = tuple[slice, slice]
"""Rows and columns."""


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
