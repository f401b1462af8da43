"""Attention windows of a map, shifted and padded as in Swin (arXiv 2103.14030), grouped by kind.

Definition: pad the map with zeros on the right and at the bottom to complete windows, roll it by the shift, cut it into
windows. Inside a window every token attends to all, padding too, with a penalty of 100 between tokens that only the roll made
neighbours. Two facts make this cheap without changing the result:

* Along each axis only the last windows differ from the rest. So there are few *kinds* of windows, four on most maps, and one
  bias per kind serves all its windows and all maps of the batch.
* Padding is zero *before* the linear layers, so all of it has one key and one value, and its queries are dropped. With equal
  keys and values, ``Σ exp(q·k + bᵢ) = exp(q·k + log Σ exp bᵢ)``: a window's padding is one token whose bias is that logarithm.
  (It is stored as several equal tokens, up to a multiple of eight keys, which GPU kernels need.)
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

PENALTY = -100.0
"""Added to the score of two tokens that only the roll made neighbours."""

KEY_STEP = 8
"""Keys of a window with padding are a multiple of this."""


class AxisWindow(NamedTuple):
    """A window along one axis."""

    regions: tuple[int, ...]
    """(w,): tokens with the same number were neighbours before the roll."""
    real: tuple[bool, ...]
    """(w,): whether a place has a token of the map, not padding."""


class Kind(NamedTuple):
    """Windows with the same padding and penalties."""

    queries: Tensor
    """(windows·Q,) int64: the token, as row · W + column, at every real place of every window."""
    keys: Tensor
    """(windows·K,) int64: the same tokens, followed in each window by copies of number H·W for its padding."""
    real: Tensor
    """(Q,) int64: places of a window, as row · w + column, that have a token."""
    padding: Tensor
    """(L - Q,) int64: the other places."""
    copies: int
    """Tokens that replace a window's padding, K - Q."""
    penalty: Tensor
    """(Q, L) float32: 0 or ``PENALTY``, from a real place to any place."""


class Windows(NamedTuple):
    """All windows of a map."""

    kinds: tuple[Kind, ...]
    order: Tensor
    """(H·W,) int64: every token's place among the queries of all kinds."""
    size: tuple[int, int]
    """Height and width of the map."""

    @property
    def padded(self) -> bool:
        """Return True if any window has padding."""
        return any(kind.copies for kind in self.kinds)


@cache_by_shape
def relative_position_index(window: int, device: torch.device) -> Tensor:
    """Compute the row of the bias table for every pair of tokens in a window.

    Returns:
        (L, L) int64 with L = window²: for tokens at (y, x) and (v, u), ``(y - v + w - 1) * (2w - 1) + x - u + w - 1``.
    """
    y, x = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window, device=device)] * 2, indexing="ij"))
    rows = y[:, None] - y[None, :] + window - 1  # (L, L)
    columns = x[:, None] - x[None, :] + window - 1  # (L, L)
    return rows * (2 * window - 1) + columns


def axis_windows(side: int, window: int, shift: int) -> dict[AxisWindow, list[list[int]]]:
    """Group the windows along one axis by kind, each as its places on the map before the roll."""
    padded = side + -side % window
    groups = defaultdict(list)
    for start in range(0, padded, window):
        places = range(start, start + window)
        origins = [(place + shift) % padded for place in places]
        regions = [(place >= padded - window) + (place >= padded - window // 2) if shift else 0 for place in places]
        groups[AxisWindow(tuple(regions), tuple(origin < side for origin in origins))].append(origins)
    return groups


@cache_by_shape
def find_windows(height: int, width: int, window: int, shift: int, device: torch.device) -> Windows:
    """Compute the windows of a map of height × width tokens, rolled by ``shift`` along both axes."""
    rows, columns = axis_windows(height, window, shift), axis_windows(width, window, shift)
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
        copies = KEY_STEP - len(real) % KEY_STEP if padding else 0
        keys = F.pad(queries, (0, copies), value=height * width)  # (windows, K)
        of_real, of_padding = (torch.tensor(places, dtype=torch.int64, device=device) for places in (real, padding))
        kinds.append(Kind(queries.flatten(), keys.flatten(), of_real, of_padding, copies, apart * PENALTY))
    order = torch.cat([kind.queries for kind in kinds]).argsort()
    return Windows(tuple(kinds), order, (height, width))


def window_bias(bias: Tensor, kind: Kind) -> Tensor:
    """Compute what is added to the scores in a kind of windows.

    Args:
        bias: (heads, L, L), for complete windows.
        kind: The kind.

    Returns:
        (heads, Q, K), in the same type.
    """
    complete = bias[:, kind.real].float() + kind.penalty  # (heads, Q, L)
    merged = complete[..., kind.real]  # (heads, Q, Q)
    if kind.copies:
        padding = complete[..., kind.padding].logsumexp(-1, keepdim=True) - math.log(kind.copies)
        merged = torch.cat([merged, padding.expand(-1, -1, kind.copies)], -1)
    return merged.to(bias.dtype)
