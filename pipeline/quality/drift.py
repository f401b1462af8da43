"""Has the quality moved? How far two lots of items are apart for certain, beside what is tolerated.

A test of "the same or not" calls every large night another one, and small nights differ by chance. So what is compared with the
tolerance is a lower bound of the true distance, which holds with the stated confidence whatever the numbers of items:

* quality: Kolmogorov's and Smirnov's distance D of the two lots less the sum of both sampling errors, each
  √(ln(4 / (1 - confidence)) / 2n), by the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (Annals of
  Probability 18, 1990, 1269-1283);
* shares of ``review`` and ``failed``: the end nearer to 0 of Newcombe's interval for a difference of two shares, made of two of
  Wilson's (Statistics in Medicine 17, 1998, 873-890, method 10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

STEPS = 1000
"""Equal steps of quality from 0 to 1: finer differences are none."""

SHARES = ("review", "failed")

BINS = 10
"""Of the stability index: tenths of the first one's items."""

LEAST_SHARE = 1e-4
"""An empty bin counts as this share, or the stability index would be infinite."""

Qualities = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Distribution:
    """Items as drift sees them: how many of each status, and how many in each of the ``STEPS`` of quality."""

    counts: Mapping[str, int]
    histogram: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[str, int], qualities: Qualities) -> Distribution:
        """Of statuses counted and of qualities, (N,), in [0, 1]; others are left out."""
        return cls(dict(counts), tuple(np.histogram(qualities, STEPS, (0, 1))[0].tolist()))

    @property
    def items(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Shift:
    """One thing that may have moved: the median of quality, or a status's share of the items, before and now."""

    before: float
    now: float
    distance: float
    """Of quality: Kolmogorov's and Smirnov's; of a share: its change without sign. [0, 1]"""
    at_least: float
    """The same in truth, with the confidence that was asked for. [0, ``distance``]"""
    tolerated: float

    @property
    def drifted(self) -> bool:
        return self.at_least > self.tolerated


def shifts(before: Distribution, now: Distribution, tolerated: Mapping[str, float], confidence: float) -> dict[str, Shift]:
    """What moved, by name: ``quality``, ``review``, ``failed``; without what one of the lots has no items for.

    Args:
        tolerated: for each of the names, a distance in [0, 1].
        confidence: of each bound, in (0, 1).
    """
    found = {}
    counts = [np.asarray(lot.histogram, np.int64) for lot in (before, now)]
    if all(count.sum() for count in counts):
        steps = [np.cumsum(count) / count.sum() for count in counts]
        distance = float(np.abs(steps[0] - steps[1]).max())
        error = sum(sampling_error(int(count.sum()), confidence) for count in counts)
        was, is_now = ((int(np.searchsorted(shares, 0.5)) + 0.5) / STEPS for shares in steps)
        found["quality"] = Shift(was, is_now, distance, max(0.0, distance - error), tolerated["quality"])
    for name in SHARES if before.items and now.items else ():
        was, is_now = (lot.counts.get(name, 0) / lot.items for lot in (before, now))
        low, high = difference(now.counts.get(name, 0), now.items, before.counts.get(name, 0), before.items, confidence)
        found[name] = Shift(was, is_now, abs(is_now - was), max(0.0, low, -high), tolerated[name])
    return found


def sampling_error(items: int, confidence: float) -> float:
    """How far a sample's distribution is from its population's, at most; two such errors hold together with ``confidence``."""
    return math.sqrt(math.log(4 / (1 - confidence)) / (2 * items))


def difference(hits: int, items: int, other_hits: int, other_items: int, confidence: float) -> tuple[float, float]:
    """Newcombe's interval for the first share less the other one."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    one, other = hits / items, other_hits / other_items
    (low, high), (other_low, other_high) = _wilson(one, items, z), _wilson(other, other_items, z)
    middle = one - other
    return middle - math.hypot(one - low, other_high - other), middle + math.hypot(high - one, other - other_low)


def kolmogorov_smirnov(one: Qualities, other: Qualities) -> float:
    """The greatest distance between two empirical distributions, [0, 1]; ties are taken together."""
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(some), values, side="right") / len(some) for some in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def stability_index(one: Qualities, other: Qualities) -> float:
    """Σ (q - p)·ln(q / p) over bins at the deciles of the first, with p and q the shares of the two."""
    edges = np.unique(np.quantile(one, np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, some, side="left"), minlength=len(edges) + 1) for some in (one, other)]
    p, q = (np.maximum(count / count.sum(), LEAST_SHARE) for count in counts)
    return float(((q - p) * np.log(q / p)).sum())


def verdict(found: Mapping[str, Shift]) -> dict[str, Any]:
    """As JSON: ``drifted``, ``said`` (for a person: what has moved by more than is tolerated) and ``shifts`` by name."""
    each = {name: asdict(shift) | {"drifted": shift.drifted} for name, shift in found.items()}
    return {"drifted": any(shift.drifted for shift in found.values()), "said": _said(found), "shifts": each}


def _said(found: Mapping[str, Shift]) -> str:
    parts = [
        f"the distribution of quality by at least {shift.at_least:.3f} ({shift.tolerated:g} is tolerated; its median went from "
        f"{shift.before:.3f} to {shift.now:.3f})"
        if name == "quality"
        else f"the share of {name} by at least {shift.at_least:.1%} ({shift.tolerated:.1%}; from {shift.before:.1%} to "
        f"{shift.now:.1%})"
        for name, shift in found.items()
        if shift.drifted
    ]
    return ", ".join(parts)


def _wilson(share: float, items: int, z: float) -> tuple[float, float]:
    """Wilson's score interval of a share (Journal of the American Statistical Association 22, 1927, 209-212)."""
    centre, spread = share + z * z / (2 * items), z * math.sqrt((share * (1 - share) + z * z / (4 * items)) / items)
    return max(0.0, (centre - spread) / (1 + z * z / items)), min(1.0, (centre + spread) / (1 + z * z / items))
