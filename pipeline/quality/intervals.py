"""Compute confidence intervals by the bootstrap (Efron, 1979; percentiles).

Dependent items, such as the corruptions of one photo, are drawn together (cluster bootstrap: Davison and Hinkley, 1997).
``groups`` (N,) numbers the groups from 0. Without it each item is drawn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
MIN_RESAMPLES, MAX_DRAWN = 100, 10_000_000
"""Smallest number of resamples, and largest number of items drawn in all resamples, of a costly statistic."""
LEVEL = 0.95
SEED = 20261122

_CHUNK = 2**23
"""Weights per chunk."""

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


class Interval(NamedTuple):
    """A value and its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float


def means(values: Floats, groups: Numbers | None = None) -> list[Interval]:
    """Return the mean of each column of (N, K), without NaNs, with its interval."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def mean(weights: Floats) -> Floats:
        count = weights @ known
        return np.asarray(np.divide(weights @ filled, count, out=np.full(count.shape, np.nan), where=count > 0))

    resampled = [mean(weights) for weights in _weights(len(values), groups)]
    return _intervals(mean(np.ones((1, len(values))))[0], np.concatenate([*resampled, np.empty((0, values.shape[1]))]))


def highest_mean(curves: npt.NDArray[np.float32], groups: Numbers | None = None) -> Interval:
    """Return the maximum of the mean of curves (N, T): a data set has one threshold, not one per item."""
    wide = curves.astype(np.float64)
    if not len(wide):
        return Interval(np.nan, np.nan, np.nan)
    resampled = [(weights @ wide).max(1) / weights.sum(1) for weights in _weights(len(wide), groups)]
    return _intervals(np.array([wide.mean(0).max()]), np.concatenate(resampled)[:, None])[0]


def interval(statistic: Callable[[Numbers], float], count: int, groups: Numbers | None = None) -> Interval:
    """Return a statistic of some items with its bootstrap interval.

    Above ten thousand items there are fewer resamples, since the intervals are narrow.

    Args:
        statistic: Called with the indices of the drawn items.
        count: Number of items.
        groups: (count,): items of one group are drawn together.
    """
    if not count:
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(SEED)
    resamples = max(MIN_RESAMPLES, min(RESAMPLES, MAX_DRAWN // count))
    order, starts = _members(count, groups)

    def draw() -> Numbers:
        chosen = rng.integers(0, len(starts) - 1, len(starts) - 1)
        return np.concatenate([order[starts[group] : starts[group + 1]] for group in chosen]) if groups is not None else chosen

    drawn = [statistic(draw()) for _ in range(resamples)]
    return _intervals(np.array([statistic(np.arange(count))]), np.array(drawn)[:, None])[0]


def _members(count: int, groups: Numbers | None) -> tuple[Numbers, Numbers]:
    """Return the items in the order of their groups, and each group's start in that order, with the end."""
    if groups is None:
        return np.arange(count), np.arange(count + 1)
    sizes = np.bincount(groups)
    return np.argsort(groups, kind="stable"), np.concatenate([[0], np.cumsum(sizes[sizes > 0])])


def _weights(count: int, groups: Numbers | None = None) -> Iterator[Floats]:
    """Yield chunks (resamples, N) that count how often each item is drawn. All columns of a table share these draws."""
    if not count:
        return
    rng = np.random.default_rng(SEED)
    _, own = np.unique(np.arange(count) if groups is None else groups, return_inverse=True)
    drawn = int(own.max()) + 1
    each = max(1, _CHUNK // count)
    for start in range(0, RESAMPLES, each):
        times = rng.multinomial(drawn, np.full(drawn, 1 / drawn), min(each, RESAMPLES - start)).astype(np.float64)
        yield times if groups is None else times[:, own]


def _intervals(values: Floats, resampled: Floats) -> list[Interval]:
    """Return the interval of each column. Undefined resamples do not count."""
    intervals = []
    for value, column in zip(values, resampled.T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if known.size else (np.nan, np.nan)
        intervals.append(Interval(float(value), float(low), float(high)))
    return intervals
