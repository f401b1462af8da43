"""Intervals by resampling: what a number would have been on other items of the same kind (Efron, 1979; percentiles)."""

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


class Interval(NamedTuple):
    """A number and where 95 % of the resamples lie; NaN where it isn't defined."""

    value: float
    low: float
    high: float


def means(values: Floats) -> list[Interval]:
    """The mean of every column of (N, K), NaNs left out, with intervals."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)

    def mean(weights: Floats) -> Floats:
        count = weights @ known
        return np.asarray(np.divide(weights @ filled, count, out=np.full(count.shape, np.nan), where=count > 0))

    resampled = [mean(weights) for weights in _weights(len(values))]
    return _intervals(mean(np.ones((1, len(values))))[0], np.concatenate([*resampled, np.empty((0, values.shape[1]))]))


def highest_mean(curves: npt.NDArray[np.float32]) -> Interval:
    """The maximum of the mean of curves (N, T): of a data set, which has one threshold, not one an item."""
    wide = curves.astype(np.float64)
    if not len(wide):
        return Interval(np.nan, np.nan, np.nan)
    resampled = [(weights @ wide).max(1) / len(wide) for weights in _weights(len(wide))]
    return _intervals(np.array([wide.mean(0).max()]), np.concatenate(resampled)[:, None])[0]


def interval(statistic: Callable[[npt.NDArray[np.int64]], float], count: int) -> Interval:
    """Any statistic of ``count`` items, which gets the numbers of the items to look at.

    Beyond ten thousand items, whose intervals are narrow, resamples are fewer.
    """
    if not count:
        return Interval(np.nan, np.nan, np.nan)
    rng = np.random.default_rng(SEED)
    resamples = max(FEWEST, min(RESAMPLES, DRAWN // count))
    drawn = [statistic(rng.integers(0, count, count)) for _ in range(resamples)]
    return _intervals(np.array([statistic(np.arange(count))]), np.array(drawn)[:, None])[0]


def _weights(count: int) -> Iterator[Floats]:
    """How often each item was drawn, (some resamples, N) at a time: the same for every column of a table."""
    if not count:
        return
    rng = np.random.default_rng(SEED)
    each = max(1, _AT_ONCE // count)
    for start in range(0, RESAMPLES, each):
        yield rng.multinomial(count, np.full(count, 1 / count), min(each, RESAMPLES - start)).astype(np.float64)


def _intervals(values: Floats, resampled: Floats) -> list[Interval]:
    """Of every column; resamples in which a number isn't defined don't count."""
    found = []
    for value, column in zip(values, resampled.T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if known.size else (np.nan, np.nan)
        found.append(Interval(float(value), float(low), float(high)))
    return found
