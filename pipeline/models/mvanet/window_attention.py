"""Which tokens of a map meet in attention windows, shifted and padded as in Swin (arXiv 2103.14030).

The definition: pad the map with zeros on the right and at the bottom to whole windows, roll it by the shift, cut it into
windows. Inside a window every token attends to all, padding too, but for a penalty of 100 between tokens that only the roll
brought together. Two facts make that cheap without changing it:

* Windows differ by their place along each axis alone, and only the last ones do. So there are few *kinds*, four on most maps,
  and a kind has one bias for all its windows and all maps of the batch.
* Padding is zeros *before* the linear layers, so all of it has one key and one value, and asks for nothing that is kept. With
  equal keys and values, ``Σ exp(q·k + bᵢ) = exp(q·k + log Σ exp bᵢ)``: all padding of a window is one token, whose bias is that
  logarithm. (It is taken as several equal tokens, up to a multiple of eight, which GPUs ask of a bias.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.mvanet.shape_cache import cache_by_shape

APART = -100.0
"""Added to the score of two tokens that only the roll brought together."""

STEP = 8
"""Keys of a window with padding are a multiple of this."""


class Strip(NamedTuple):
    """A window as it looks along one axis."""

    regions: tuple[int, ...]
    """(w,) of every place: tokens of one number were neighbours before the roll."""
    real: tuple[bool, ...]
    """(w,) whether a place has a token of the map, not padding."""


class Kind(NamedTuple):
    """Windows that look alike."""

    queries: Tensor
    """(windows·Q,) int64: the token, as row · W + column, at every real place of every window."""
    keys: Tensor
    """(windows·K,) int64: the same tokens, and behind each window's some of number H·W, which stand for its padding."""
    real: Tensor
    """(Q,) int64: places of a window, as row · w + column, that have a token."""
    padding: Tensor
    """(L - Q,) int64: the other places."""
    copies: int
    """Tokens that stand for a window's padding, K - Q."""
    penalty: Tensor
    """(Q, L) float32: 0 or ``APART``, of a real place to any."""


class Windows(NamedTuple):
    """All windows of a map."""

    kinds: tuple[Kind, ...]
    outward: Tensor
    """(H·W,) int64: every token's place among all the kinds' queries."""
    size: tuple[int, int]
    """Height and width of the map."""

    @property
    def padded(self) -> bool:
        """Whether some window has places without a token."""
        return any(kind.copies for kind in self.kinds)


@cache_by_shape
def relative_position_index(window: int, device: torch.device) -> Tensor:
    """Row of the bias table for every pair of tokens in a window.

    Returns:
        (L, L) int64 with L = window²: for tokens at (y, x) and (v, u), ``(y - v + w - 1) * (2w - 1) + x - u + w - 1``.
    """
    y, x = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window, device=device)] * 2, indexing="ij"))
    rows = y[:, None] - y[None, :] + window - 1  # (L, L)
    columns = x[:, None] - x[None, :] + window - 1  # (L, L)
    return rows * (2 * window - 1) + columns


def strips(side: int, window: int, shift: int) -> dict[Strip, list[list[int]]]:
    """The windows along one axis by how they look; of each, where its places were on the map before the roll."""
    padded = side + -side % window
    found = defaultdict(list)
    for start in range(0, padded, window):
        places = range(start, start + window)
        origins = [(place + shift) % padded for place in places]
        regions = [(place >= padded - window) + (place >= padded - window // 2) if shift else 0 for place in places]
        found[Strip(tuple(regions), tuple(origin < side for origin in origins))].append(origins)
    return found


@cache_by_shape
def find_windows(height: int, width: int, window: int, shift: int, device: torch.device) -> Windows:
    """The windows of a map of height × width tokens, rolled by ``shift`` both ways."""
    rows, columns = strips(height, window, shift), strips(width, window, shift)
    kinds = []
    for (row, all_ys), (column, all_xs) in product(rows.items(), columns.items()):
        is_real = [a and b for a, b in product(row.real, column.real)]  # (L,)
        real, padding = ([place for place, one in enumerate(is_real) if one is wanted] for wanted in (True, False))
        tokens = [
            [y * width + x for (y, x), one in zip(product(ys, xs), is_real, strict=True) if one]
            for ys, xs in product(all_ys, all_xs)
        ]
        regions = torch.tensor(list(product(row.regions, column.regions)), device=device)  # (L, 2)
        apart = (regions[real, None] != regions).any(-1)  # (Q, L)
        queries = torch.tensor(tokens, device=device)  # (windows, Q)
        copies = STEP - len(real) % STEP if padding else 0
        keys = F.pad(queries, (0, copies), value=height * width)  # (windows, K)
        here, nowhere = (torch.tensor(places, dtype=torch.int64, device=device) for places in (real, padding))
        kinds.append(Kind(queries.flatten(), keys.flatten(), here, nowhere, copies, apart * APART))
    outward = torch.cat([kind.queries for kind in kinds]).argsort()
    return Windows(tuple(kinds), outward, (height, width))


def window_bias(bias: Tensor, kind: Kind) -> Tensor:
    """What is added to the scores in a kind of windows.

    Args:
        bias: (heads, L, L), for whole windows.

    Returns:
        (heads, Q, K), in the same type.
    """
    whole = bias[:, kind.real].float() + kind.penalty  # (heads, Q, L)
    seen = whole[..., kind.real]  # (heads, Q, Q)
    if kind.copies:
        folded = whole[..., kind.padding].logsumexp(-1, keepdim=True) - math.log(kind.copies)
        seen = torch.cat([seen, folded.expand(-1, -1, kind.copies)], -1)
    return seen.to(bias.dtype)
