"""Convolution after nearest enlargement by two, done on the small map: 4 multiplications where there were 9.

Of the 3×3 pixels under the kernel, some are copies of one another. For an even row 2i the three rows above, at and below
it are the small map's rows i-1, i, i; for an odd row 2i+1 they are i, i, i+1. So a kernel's three rows become two, its
outer and the sum of the other two, and likewise its columns: every one of the four *parities* (even or odd row, even or
odd column) of the large map is one 2×2 convolution of the small one.

The four parities lie beside one another as channels, on a grid that is one longer than the small map both ways: its row
r is the even row of small row r, and the odd row of small row r - 1. The last even and the first odd row, and columns
likewise, belong to no pixel; ``blank_margins`` makes them zero, which is what a following convolution's padding would
have found there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

PARITIES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Odd row, odd column; in the order of the channel groups."""


def parity_kernel(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) to (4·D, C, 2, 2): group p of D channels makes parity p."""
    even = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=weight.dtype, device=weight.device)  # (2, 3): rows i-1, i
    odd = torch.tensor([[1, 1, 0], [0, 0, 1]], dtype=weight.dtype, device=weight.device)  # (2, 3): rows i, i+1
    rows = (even, odd)
    return torch.cat([rows[y] @ weight @ rows[x].T for y, x in PARITIES])


def conv_enlarged(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(nearest(x, 2), weight, bias, padding=1)`` as its four parities.

    Args:
        x: (N, C, h, w).
        weight: (D, C, 3, 3).

    Returns:
        (N, 4·D, h+1, w+1), margins not blank.
    """
    return F.conv2d(x, parity_kernel(weight), None if bias is None else bias.repeat(4), padding=1)


def normalise_parities(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Instance norm without parameters over all four parities of a channel together: (N, 4·D, h+1, w+1), same out.

    Margins don't count: the variance of a union is the mean of the parts' variances and the variance of their means.
    """
    parts = [torch.var_mean(part, (2, 3), correction=0) for part in split(x)]  # 4 × 2 × (N, D)
    variances, means = (torch.stack(some) for some in zip(*parts, strict=True))  # (4, N, D)
    mean = means.mean(0)
    variance = variances.mean(0) + (means - mean).square().mean(0)
    scale = (variance + eps).rsqrt().repeat(1, 4)[..., None, None]  # (N, 4·D, 1, 1)
    return torch.addcmul(-mean.repeat(1, 4)[..., None, None] * scale, x, scale)


def split(x: Tensor) -> list[Tensor]:
    """The four parities, each (N, D, h, w), without margins: views of (N, 4·D, h+1, w+1)."""
    height, width = x.shape[2] - 1, x.shape[3] - 1
    return [part[:, :, r : r + height, c : c + width] for part, (r, c) in zip(x.chunk(4, 1), PARITIES, strict=True)]


def weave(x: Tensor) -> Tensor:
    """The large map (N, D, 2h, 2w) from its parities (N, 4·D, h+1, w+1)."""
    batch, channels, height, width = x.shape[0], x.shape[1] // 4, x.shape[2] - 1, x.shape[3] - 1
    large = x.new_empty(batch, channels, height, 2, width, 2)
    for part, (r, c) in zip(split(x), PARITIES, strict=True):
        large[:, :, :, r, :, c] = part
    return large.reshape(batch, channels, 2 * height, 2 * width)


def blank_margins(x: Tensor) -> Tensor:
    """(N, 4·D, h+1, w+1) with zeros where no pixel is, in place."""
    channels = x.shape[1] // 4
    for parity, (r, c) in enumerate(PARITIES):
        group = slice(parity * channels, (parity + 1) * channels)
        x[:, group, 0 if r else -1] = 0
        x[:, group, :, 0 if c else -1] = 0
    return x


def conv_parities(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``conv2d(weave(x), weight, bias, padding=1)`` without weaving ``x``, whose margins are blank.

    A pixel of parity q finds its neighbour at distance d in parity (q + d) mod 2, at most one step away; on the shared
    grid that is the row itself or the next one: again a 2×2 kernel, from all four parities to all four.

    Args:
        x: (N, 4·C, h+1, w+1).
        weight: (D, C, 3, 3).

    Returns:
        (N, D, 2h, 2w).
    """
    outputs, inputs = weight.shape[:2]
    kernel = weight.new_zeros(outputs, 4, 4, inputs, 2, 2)  # D, to parity, from parity, C, row, column
    for to, (qy, qx) in enumerate(PARITIES):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                py, px = (qy + dy) % 2, (qx + dx) % 2
                row, column = (qy + dy - py) // 2 + py, (qx + dx - px) // 2 + px
                kernel[:, to, 2 * py + px, :, row, column] = weight[:, :, dy + 1, dx + 1]
    kernel = kernel.reshape(outputs * 4, 4 * inputs, 2, 2)
    small = F.conv2d(x, kernel, None if bias is None else bias.repeat_interleave(4))  # (N, D·4, h, w)
    return F.pixel_shuffle(small, 2)
