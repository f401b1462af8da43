"""Intervals by resampling: what a number would have been on other items of the same kind (Efron, 1979; percentiles).

Items that stand or fall together, as the copies of one photo, are drawn together (the cluster bootstrap: Davison and Hinkley,
1997): ``groups`` (N,) numbers them from 0; without it every item is drawn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
FEWEST, DRAWN = 100, 10_000_000
"""Resamples at least, and items drawn in all resamples together at most, of a statistic that is costly."""
LEVEL = 0.95
SEED = 20261122

_AT_ONCE = 2**23
"""Numbers of one chunk of weights."""

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


class Interval(NamedTuple):
    """A number and where 95 % of the resamples lie; NaN where it isn't defined."""

    value: float
    low: float
    high: float


def means(values: Floats, groups: Numbers | None = None) -> list[Interval]:
    """The mean of every column of (N, K), NaNs left out, with intervals."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def mean(weights: Floats) -> Floats:
        count = weights @ known
        return np.asarray(np.divide(weights @ filled, count, out=np.full(count.shape, np.nan), where=count > 0))

    resampled = [mean(weights) for weights in _weights(len(values), groups)]
    return _intervals(mean(np.ones((1, len(values))))[0], np.concatenate([*resampled, np.empty((0, values.shape[1]))]))


def highest_mean(curves: npt.NDArray[np.float32], groups: Numbers | None = None) -> Interval:
    """The maximum of the mean of curves (N, T): of a data set, which has one threshold, not one an item."""
    wide = curves.astype(np.float64)
    if not len(wide):
        return Interval(np.nan, np.nan, np.nan)
    resampled = [(weights @ wide).max(1) / weights.sum(1) for weights in _weights(len(wide), groups)]
    return _intervals(np.array([wide.mean(0).max()]), np.concatenate(resampled)[:, None])[0]


def interval(statistic: Callable[[Numbers], float], count: int, groups: Numbers | None = None) -> Interval:
    """Any statistic of ``count`` items, which gets the numbers of the items to look at.

    Beyond ten thousand items, whose intervals are narrow, resamples are fewer.
    """
    if not count:
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(SEED)
    resamples = max(FEWEST, min(RESAMPLES, DRAWN // count))
    order, starts = _members(count, groups)

    def some() -> Numbers:
        chosen = rng.integers(0, len(starts) - 1, len(starts) - 1)
        return np.concatenate([order[starts[group] : starts[group + 1]] for group in chosen]) if groups is not None else chosen

    drawn = [statistic(some()) for _ in range(resamples)]
    return _intervals(np.array([statistic(np.arange(count))]), np.array(drawn)[:, None])[0]


def _members(count: int, groups: Numbers | None) -> tuple[Numbers, Numbers]:
    """Items in the order of their groups, and where each group starts in it, with the end."""
    if groups is None:
        return np.arange(count), np.arange(count + 1)
    sizes = np.bincount(groups)
    return np.argsort(groups, kind="stable"), np.concatenate([[0], np.cumsum(sizes[sizes > 0])])


def _weights(count: int, groups: Numbers | None = None) -> Iterator[Floats]:
    """How often each item was drawn, (some resamples, N) at a time: the same for every column of a table."""
    if not count:
        return
    rng = np.random.default_rng(SEED)
    _, own = np.unique(np.arange(count) if groups is None else groups, return_inverse=True)
    drawn = int(own.max()) + 1
    each = max(1, _AT_ONCE // count)
    for start in range(0, RESAMPLES, each):
        times = rng.multinomial(drawn, np.full(drawn, 1 / drawn), min(each, RESAMPLES - start)).astype(np.float64)
        yield times if groups is None else times[:, own]


def _intervals(values: Floats, resampled: Floats) -> list[Interval]:
    """Of every column; resamples in which a number isn't defined don't count."""
    found = []
    for value, column in zip(values, resampled.T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if known.size else (np.nan, np.nan)
        found.append(Interval(float(value), float(low), float(high)))
    return found
