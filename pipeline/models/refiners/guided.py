"""Guided upsampling: enlarge the base's alpha along the edges of the image. It needs no weights.

He and Sun's fast guided filter (arXiv 1505.00996), used for enlarging: alpha is fitted as a linear function of colour,
``α ≈ a·I + b``, in every small window of the frame, and the coefficients are enlarged and applied to the full-size image. Where
colours explain most of alpha's variance, the residual is the base's error and is dropped. Where they explain little of it, the
residual is kept, so that an object on a ground of its own colour is no worse than enlarged.

Every linear step (window mean, enlargement, both together) is a product with one matrix for rows and one for columns per tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.forward import to_device
from pipeline.models.refiners.refine_tiles import Tile

RADIUS_PX, SMALL_RADIUS_PX, SMALL_SCALE = 3, 2, 3.0
"""Window radius in frame pixels; the second one where the image is less than ``SMALL_SCALE`` times as large as the frame."""

EPS = 1e-4
"""Added to the variance of colours in [0, 1]: smaller variance is noise, not an edge."""

MIN_VARIANCE = 1e-4
"""Added to the variance of alpha: smaller variance needs no explanation."""


HALO_CELLS = 2 * RADIUS_PX + 1
"""Two window means, one after the other."""


class Guided:
    """The refiner ``guided``."""

    halo_cells, halo_px, step_px = HALO_CELLS, 0, 1

    @torch.inference_mode()
    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """See ``Refiner``."""
        return refine_guided(*on_device(tile))


def on_device(tile: Tile) -> Tile:
    """Copy a tile's arrays to the device of its planes."""
    copied = (plane if isinstance(plane, Tensor) else to_device(plane, tile.p.device) for plane in tile)
    return Tile(*copied)


def refine_guided(
    image: Tensor, frame: Tensor, p: Tensor, unknown: Tensor, down: Tensor, across: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute a tile; see ``Tile`` and ``Refiner``."""
    colours, small = as_colours(image), as_colours(frame)
    radius = torch.where(scale >= SMALL_SCALE, RADIUS_PX, SMALL_RADIUS_PX)
    rows, columns = (window_means(side, radius, p.device) for side in p.shape)
    *a, b, unexplained = apply_both(rows, fit(p, small, rows, columns, EPS), columns).unbind()  # 5 × (h, w)
    residual = p - (torch.stack(a) * small).sum(0) - b
    coefficients = torch.stack([*a, b + residual * unexplained.square()])
    tall, wide = interpolation(down, p.shape[0]), interpolation(across, p.shape[1])
    *a, b = apply_both(tall, coefficients, wide).unbind()  # 4 × (H, W)
    for factor, channel in zip(a, colours, strict=True):
        b = torch.addcmul(b, factor, channel)
    return b.clamp(0, 1), apply_both(tall, unknown, wide)


def as_colours(image: Tensor) -> Tensor:
    """Convert (H, W, 3) uint8 to (3, H, W) float32 in [0, 1]."""
    return image.permute(2, 0, 1).float() / 255


def interpolation(positions: Tensor, cells: int) -> Tensor:
    """Return the matrix (n, cells) float32 of linear interpolation at n positions, as OpenCV's INTER_LINEAR."""
    return (1 - (positions[:, None] - torch.arange(cells, device=positions.device)).abs()).clamp_min(0)


def fit(p: Tensor, frame: Tensor, rows: Tensor, columns: Tensor, eps: float) -> Tensor:
    """Fit alpha as a linear function of colour in every window, by least squares.

    Args:
        p: (h, w) float32 in [0, 1].
        frame: (3, h, w) float32 in [0, 1].
        rows: (h, h), from ``window_means``.
        columns: (w, w), likewise.
        eps: Added to the variance of colours.

    Returns:
        (5, h, w): a for red, green and blue; b; and the unexplained share of alpha's variance in [0, 1].
    """
    r, g, b = frame
    products = [r * p, g * p, b * p, r * r, r * g, r * b, g * g, g * b, b * b, p * p]
    means = apply_both(rows, torch.stack([r, g, b, p, *products]), columns)  # (14, h, w)
    colour, opacity = means[:3], means[3]
    first, second = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    rr, rg, rb, gg, gb, bb = means[7:13] - colour[first] * colour[second]
    covariance = means[4:7] - colour * opacity  # (3, h, w)
    a = torch.stack(solve(rr + eps, rg, rb, gg + eps, gb, bb + eps, covariance))
    unexplained = 1 - (a * covariance).sum(0) / ((means[13] - opacity * opacity).clamp_min(0) + MIN_VARIANCE)
    return torch.stack([*a, opacity - (a * colour).sum(0), unexplained.clamp(0, 1)])


def solve(rr: Tensor, rg: Tensor, rb: Tensor, gg: Tensor, gb: Tensor, bb: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solve Σ·a = y for a symmetric, positive definite 3×3 Σ at every pixel, by LDLᵀ: y (3, h, w) to three of (h, w)."""
    l_g, l_b = rg / rr, rb / rr
    d_g, s = gg - l_g * rg, gb - l_g * rb
    l_gb = s / d_g
    d_b = bb - l_b * rb - l_gb * s
    y_g = y[1] - l_g * y[0]
    blue = (y[2] - l_b * y[0] - l_gb * y_g) / d_b
    green = y_g / d_g - l_gb * blue
    return y[0] / rr - l_g * green - l_b * blue, green, blue


def apply_both(rows: Tensor, planes: Tensor, columns: Tensor) -> Tensor:
    """Return rows · plane · columnsᵀ for every plane: (h, m), (…, m, k), (w, k) to (…, h, w)."""
    return rows @ (planes @ columns.T)


def window_means(side: int, radius: int | Tensor, device: torch.device) -> Tensor:
    """Return the matrix (side, side) float32 of means over 2·radius + 1 neighbours, fewer at the ends."""
    index = torch.arange(side, device=device)
    near = ((index[:, None] - index).abs() <= radius).float()
    return near / near.sum(1, keepdim=True)
