"""Convolution after nearest 2× upsampling, computed on the small map: 4 multiplications instead of 9 (sub-pixel convolution).

Nearest upsampling repeats pixels, so some of the 3×3 pixels under the kernel are equal. For an even row 2i the three rows are
the small map's i-1, i, i; for an odd row 2i+1 they are i, i, i+1. So three kernel rows reduce to two, the outer one and the sum
of the others, and columns likewise. Each of the four *phases* (even or odd row, even or odd column) of the large map is one 2×2
convolution of the small one. All functions here work on the four phases; the large map need never be built.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Odd row, odd column: the order of every list of phases."""


def phase_kernel(weight: Tensor, odd_row: int, odd_column: int) -> Tensor:
    """Reduce a kernel (D, C, 3, 3) to (D, C, 2, 2): rows (columns) 0 and 1+2 for an even phase, 0+1 and 2 for an odd one."""
    for dim, odd in ((2, odd_row), (3, odd_column)):
        before, at, after = weight.unbind(dim)
        weight = torch.stack([before + at, after] if odd else [before, at + after], dim)
    return weight


def conv_upsampled(x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Compute the four phases of ``conv2d(nearest(x, 2), weight, bias, padding=1)``.

    Args:
        x: (N, C, h, w).
        weight: (D, C, 3, 3).
        bias: (D,).

    Returns:
        4 × (N, D, h, w).
    """
    # An even row needs the row above it, an odd one the row below.
    return [F.conv2d(F.pad(x, (1 - c, c, 1 - r, r)), phase_kernel(weight, r, c), bias) for r, c in PHASES]


def normalise_phases(phases: Sequence[Tensor], eps: float = 1e-5) -> list[Tensor]:
    """Apply instance norm without parameters to all four phases (N, D, h, w) of a channel together.

    The variance of a union of equal parts is the mean of the parts' variances plus the variance of their means.
    """
    # Deviations, not variances, which may overflow half precision.
    moments = [torch.std_mean(part, (2, 3), correction=0, keepdim=True) for part in phases]
    deviations, means = (torch.stack(some).float().flatten(2) for some in zip(*moments, strict=True))  # (4, N, D)
    mean = means.mean(0)
    variance = deviations.square().mean(0) + (means - mean).square().mean(0)
    scale = (variance + eps).rsqrt()
    shift = -mean * scale
    scale, shift = (each.to(phases[0].dtype)[..., None, None] for each in (scale, shift))  # (N, D, 1, 1)
    return [torch.addcmul(shift, part, scale) for part in phases]


def interleave(phases: Sequence[Tensor]) -> Tensor:
    """Build the large map (N, D, 2h, 2w), channels-last in memory, from its phases, 4 × (N, D, h, w)."""
    batch, channels, height, width = phases[0].shape
    a, b, c, d = (part.permute(0, 2, 3, 1).flatten(0, 1) for part in phases)  # (N·h, w, D)
    above, below = (torch.cat(pair, 2).flatten(1) for pair in ((a, b), (c, d)))  # (N·h, w·2·D)
    large = torch.cat([above, below], 1).reshape(batch, 2 * height, 2 * width, channels)
    return large.permute(0, 3, 1, 2)


def conv_phases(phases: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``conv2d(interleave(phases), weight, bias, padding=1)`` without interleaving them.

    A pixel of phase q finds its neighbour at distance d in phase (q + d) mod 2, at most one step away: in an even phase at its
    own place or the next one, in an odd one at its own or the one before. So one 2×2 kernel per phase covers all four results.

    Args:
        phases: 4 × (N, C, h, w).
        weight: (D, C, 3, 3).
        bias: (D,).

    Returns:
        (N, D, 2h, 2w).
    """
    height, width = phases[0].shape[2:]
    total = None
    for part, (r, c) in zip(phases, PHASES, strict=True):
        terms = F.conv2d(part, _phase_weights(weight, r, c), padding=1)  # (N, D·4, h+1, w+1): one place too many
        terms = terms[:, :, 1 - r : 1 - r + height, 1 - c : 1 - c + width]  # (N, D·4, h, w)
        total = terms if total is None else total + terms
    assert total is not None
    large = F.pixel_shuffle(total, 2)
    return large if bias is None else large + bias[:, None, None]


def _phase_weights(weight: Tensor, r: int, c: int) -> Tensor:
    """Return the weights of phase (r, c) in each of the four results: (D, C, 3, 3) to (D·4, C, 2, 2)."""
    outputs, inputs = weight.shape[:2]
    kernel = weight.new_zeros(outputs, 4, inputs, 2, 2)
    for to, (qy, qx) in enumerate(PHASES):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if ((qy + dy) % 2, (qx + dx) % 2) == (r, c):
                    row, column = (qy + dy - r) // 2 + r, (qx + dx - c) // 2 + c
                    kernel[:, to, :, row, column] = weight[:, :, dy + 1, dx + 1]
    return kernel.flatten(0, 1)
