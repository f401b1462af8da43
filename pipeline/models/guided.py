"""Guided upsampling: the base's alpha, enlarged along the edges of the image itself. It needs no weights.

He and Sun's fast guided filter (arXiv 1505.00996) turned to enlarging: in every small window of the frame alpha is fitted as a
linear function of colour, ``α ≈ a·I + b``, and the coefficients are enlarged; the image is there at full size already.

All that is linear is a product with two small matrices, one for rows and one for columns, at the size of a tile: the mean over
a window, the enlargement, and the two after one another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models.forward import to_device
from pipeline.models.redraw import Axis, Drawing, View

RADIUS_PX = 2
"""Of a window, in pixels of the frame; 1 where the image is less than ``NEAR`` times as large."""

NEAR = 2.5

EPS = 1e-4
"""Added to the colours' variance (in [0, 1]²): what is flatter than this is no edge, but noise."""


class Guided:
    """The refiner without weights."""

    halo_cells = 2 * RADIUS_PX + 1
    """A window's mean, and the mean of what was fitted in windows."""

    def start(self, view: View) -> Drawing:
        """See ``Refiner``."""
        radius = RADIUS_PX if view.scale >= NEAR else 1

        def draw(down: Axis, across: Axis) -> Tensor:
            p = view.p[down.cells, across.cells]
            frame = view.frame[down.cells, across.cells].permute(2, 0, 1).float() / 255
            image = to_device(view.image[down.pixels, across.pixels], view.p.device).permute(2, 0, 1).float() / 255
            rows, columns = windows(p.shape[0], radius, p.device), windows(p.shape[1], radius, p.device)
            coefficients = fit(p, frame, rows, columns, EPS)
            *a, b = both(down.to_pixels() @ rows, coefficients, across.to_pixels() @ columns)
            return torch.addcmul(torch.addcmul(torch.addcmul(b, a[0], image[0]), a[1], image[1]), a[2], image[2])

        return Drawing(draw)


def fit(p: Tensor, frame: Tensor, rows: Tensor, columns: Tensor, eps: float) -> Tensor:
    """Alpha as a linear function of colour in every window, by least squares.

    Args:
        p: (h, w) float32 in [0, 1].
        frame: (3, h, w) float32 in [0, 1].
        rows, columns: as ``windows`` gives them.

    Returns:
        (4, h, w): a for red, green and blue, and b.
    """
    r, g, b = frame
    products = [r * p, g * p, b * p, r * r, r * g, r * b, g * g, g * b, b * b]
    means = both(rows, torch.stack([r, g, b, p, *products]), columns)  # (13, h, w)
    colour, opacity = means[:3], means[3]
    first, second = [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]
    rr, rg, rb, gg, gb, bb = means[7:] - colour[first] * colour[second]
    a = solve(rr + eps, rg, rb, gg + eps, gb, bb + eps, means[4:7] - colour * opacity)
    return torch.stack([*a, opacity - a[0] * colour[0] - a[1] * colour[1] - a[2] * colour[2]])


def solve(rr: Tensor, rg: Tensor, rb: Tensor, gg: Tensor, gb: Tensor, bb: Tensor, y: Tensor) -> Sequence[Tensor]:
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
