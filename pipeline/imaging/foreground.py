"""Estimate the object's own colours where it is partly transparent, without the background mixed into them.

``multilevel`` is in a module of its own. ``ben2`` is blur fusion as PramaLLC/BEN2 ships it, after Forte and Pitié,
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

from pipeline.imaging.multilevel import OPAQUE, apply_colours, broadcast_alpha, estimate_colours
from pipeline.types import Alpha, Mask, Pixels, as_alpha

TILE_PX = 256
"""Side of the squares that blur fusion processes one by one, to stay in a core's cache."""

KERNELS_PX = 90, 6
"""Sides of the blur in both passes, at any image size (PramaLLC/BEN2, ``refine_foreground``)."""

Colours = npt.NDArray[np.floating[Any]]
"""(H, W, 3), black 0, white 1."""

Part = tuple[slice, slice]
"""Rows and columns."""


def estimate_foreground(image: Pixels, mask: Mask, method: Literal["multilevel", "ben2", "none"]) -> Pixels:
    """Estimate straight (not premultiplied) foreground colours.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8.
        method: ``multilevel`` changes partly transparent pixels only. ``ben2`` changes every pixel, exactly as PramaLLC/BEN2
            does with its ``refine_foreground``. ``none`` returns the image itself.

    Returns:
        (H, W, 3) uint8. The colour of fully transparent pixels is arbitrary.
    """
    if method == "none":
        return image
    if method == "ben2":
        return _blur_fusion(image, mask)
    if not cv2.inRange(mask, 1, OPAQUE - 1).any():
        return image.copy()
    return apply_colours(estimate_colours(image, mask), image, mask)


def _blur_fusion(image: Pixels, mask: Mask) -> Pixels:
    """Run both passes in double precision, as upstream. Tiles do not change the result."""
    foreground = np.empty_like(image)
    for tile, padded, inner in _tiles(mask.shape[0], mask.shape[1], sum(side // 2 for side in KERNELS_PX)):
        colours, alpha = image[padded] / 255, as_alpha(mask[padded])
        first, background = _fusion_pass(colours, colours, colours, alpha, KERNELS_PX[0])
        second, _ = _fusion_pass(colours, first, background, alpha, KERNELS_PX[1])
        foreground[tile] = (second[inner] * 255).astype(np.uint8)
    return foreground


def _fusion_pass(
    colours: Colours, foreground: Colours, background: Colours, alpha: Alpha, kernel_px: int
) -> tuple[Colours, Colours]:
    """Return F and B̄, in upstream's order of operations: it truncates levels, so the last bit matters."""
    shares, kernel = broadcast_alpha(alpha.astype(np.float64), 3), (kernel_px, kernel_px)
    opacity = cv2.blur(shares, kernel)
    near = cv2.blur(foreground * shares, kernel) / (opacity + 1e-5)
    far = cv2.blur(background * (1 - shares), kernel) / (1 - opacity + 1e-5)
    return np.clip(near + shares * (colours - shares * near - (1 - shares) * far), 0, 1), far


def _tiles(height: int, width: int, padding: int) -> Iterator[tuple[Part, Part, Part]]:
    """Yield each tile, the tile with its padding, and the tile's place within the padded one."""
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
            above, before = max(top - padding, 0), max(left - padding, 0)
            yield (
                (slice(top, bottom), slice(left, right)),
                (slice(above, bottom + padding), slice(before, right + padding)),
                (slice(top - above, bottom - above), slice(left - before, right - before)),
            )
