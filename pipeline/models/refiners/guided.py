"""Guided upsampling: the base's alpha, enlarged along the edges of the image itself. It needs no weights.

He and Sun's fast guided filter (arXiv 1505.00996) turned to enlarging: in every small window of the frame alpha is fitted as a
linear function of colour, ``α ≈ a·I + b``, and the coefficients are enlarged; the image is there at full size already. What
the colours don't explain of the base's alpha is the base's error where they explain the rest of it, and is left out; where they
explain little, it is kept, so that an object on a ground of its own colour is no worse than enlarged.

All that is linear is a product with two small matrices, one for rows and one for columns, at the size of a tile: the mean over
a window, the enlargement, and the two after one another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.forward import to_device
from pipeline.models.refiners.refine_tiles import Axis, Drawing, View

RADIUS_PX, NEAR_RADIUS_PX, NEAR = 3, 2, 3.0
"""Of a window, in pixels of the frame; less where the image is less than ``NEAR`` times as large, and there is less to gain."""

EPS = 1e-4
"""Added to the colours' variance (in [0, 1]²): what is flatter than this is no edge, but noise."""


FLAT = 1e-4
"""Variance of alpha beside which there is nothing to explain."""


class Guided:
    """The refiner without weights."""

    halo_cells = 2 * RADIUS_PX + 1
    """A window's mean, and the mean of what was fitted in windows."""

    def start(self, view: View) -> Drawing:
        """See ``Refiner``."""
        radius = RADIUS_PX if view.scale >= NEAR else NEAR_RADIUS_PX

        def draw(down: Axis, across: Axis) -> Tensor:
            p = view.p[down.cells, across.cells]
            frame = view.frame[down.cells, across.cells].permute(2, 0, 1).float() / 255
            image = to_device(view.image[down.pixels, across.pixels], view.p.device).permute(2, 0, 1).float() / 255
            rows, columns = windows(p.shape[0], radius, p.device), windows(p.shape[1], radius, p.device)
            fitted = both(rows, fit(p, frame, rows, columns, EPS), columns)  # (5, h, w)
            left = p - (fitted[:3] * frame).sum(0) - fitted[3]
            fitted[3] += left * fitted[4].square()
            *a, b = both(down.to_pixels(), fitted[:4], across.to_pixels())
            return torch.addcmul(torch.addcmul(torch.addcmul(b, a[0], image[0]), a[1], image[1]), a[2], image[2])

        return Drawing(draw)


def fit(p: Tensor, frame: Tensor, rows: Tensor, columns: Tensor, eps: float) -> Tensor:
    """Alpha as a linear function of colour in every window, by least squares.

    Args:
        p: (h, w) float32 in [0, 1].
        frame: (3, h, w) float32 in [0, 1].
        rows, columns: as ``windows`` gives them.

    Returns:
        (5, h, w): a for red, green and blue; b; and the share of alpha's variance that they leave unexplained, in [0, 1].
    """
    r, g, b = frame
    products = [r * p, g * p, b * p, r * r, r * g, r * b, g * g, g * b, b * b, p * p]
    means = both(rows, torch.stack([r, g, b, p, *products]), columns)  # (14, h, w)
    colour, opacity = means[:3], means[3]
    first, second = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    rr, rg, rb, gg, gb, bb = means[7:13] - colour[first] * colour[second]
    together = means[4:7] - colour * opacity  # (3, h, w)
    a = torch.stack(solve(rr + eps, rg, rb, gg + eps, gb, bb + eps, together))
    unexplained = 1 - (a * together).sum(0) / ((means[13] - opacity * opacity).clamp_min(0) + FLAT)
    return torch.stack([*a, opacity - (a * colour).sum(0), unexplained.clamp(0, 1)])


def solve(rr: Tensor, rg: Tensor, rb: Tensor, gg: Tensor, gb: Tensor, bb: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σ·a = y with a symmetric, positive definite Σ of 3×3 at every pixel, by LDLᵀ: y (3, h, w) to three of (h, w)."""
    l_g, l_b = rg / rr, rb / rr
    d_g, s = gg - l_g * rg, gb - l_g * rb
    l_gb = s / d_g
    d_b = bb - l_b * rb - l_gb * s
    y_g = y[1] - l_g * y[0]
    blue = (y[2] - l_b * y[0] - l_gb * y_g) / d_b
    green = y_g / d_g - l_gb * blue
    return y[0] / rr - l_g * green - l_b * blue, green, blue


def both(rows: Tensor, planes: Tensor, columns: Tensor) -> Tensor:
    """rows · plane · columnsᵀ for every plane: (h, m), (C, m, k), (w, k) to (C, h, w)."""
    return rows @ (planes @ columns.T)


def windows(side: int, radius: int, device: torch.device) -> Tensor:
    """(side, side) float32: the mean over 2·radius + 1 neighbours, of which there are fewer at the ends."""
    place = torch.arange(side, device=device)
    near = ((place[:, None] - place).abs() <= radius).float()
    return near / near.sum(1, keepdim=True)
