"""Detect drift of the quality between two sets of items.

A test for equality rejects it for every large set, and small sets differ by chance. So the tolerance is compared with a lower
bound of the true distance, which holds with the given confidence at any number of items:

* quality: the Kolmogorov-Smirnov distance less both sampling errors, each √(ln(4 / (1 - confidence)) / 2n), by
  the Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant (Annals of Probability 18, 1990, 1269-1283);
* shares of ``review`` and ``failed``: the end nearer to 0 of Newcombe's interval for a difference of two shares, from two
  Wilson intervals (Statistics in Medicine 17, 1998, 873-890, method 10).
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
"""Equal steps of quality from 0 to 1. Finer differences are ignored."""

SHARES = ("review", "failed")

BINS = 10
"""Bins of the stability index: deciles of the first set."""

MIN_SHARE = 1e-4
"""Share of an empty bin, which keeps the stability index finite."""

Qualities = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Distribution:
    """Numbers of items by status, and by step of quality (``STEPS``)."""

    counts: Mapping[str, int]
    histogram: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[str, int], qualities: Qualities) -> Distribution:
        """Build from counts by status and qualities (N,). Qualities outside [0, 1] are left out."""
        return cls(dict(counts), tuple(np.histogram(qualities, STEPS, (0, 1))[0].tolist()))

    @property
    def items(self) -> int:
        """Number of items."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Shift:
    """Change of the median of quality, or of a status's share of the items."""

    before: float
    now: float
    distance: float
    """Kolmogorov-Smirnov distance of quality, or absolute change of a share; [0, 1]."""
    at_least: float
    """Lower bound of the true distance; [0, ``distance``]."""
    tolerated: float

    @property
    def drifted(self) -> bool:
        """True if the lower bound exceeds the tolerance."""
        return self.at_least > self.tolerated


def shifts(before: Distribution, now: Distribution, tolerated: Mapping[str, float], confidence: float) -> dict[str, Shift]:
    """Return the shifts by name: ``quality``, ``review``, ``failed``. Names without items on either side are left out.

    ``tolerated`` has a distance in [0, 1] per name. The confidence in (0, 1) is that of each bound.
    """
    by_name = {}
    counts = [np.asarray(distribution.histogram, np.int64) for distribution in (before, now)]
    if all(count.sum() for count in counts):
        steps = [np.cumsum(count) / count.sum() for count in counts]
        distance = float(np.abs(steps[0] - steps[1]).max())
        error = sum(sampling_error(int(count.sum()), confidence) for count in counts)
        was, is_now = ((int(np.searchsorted(shares, 0.5)) + 0.5) / STEPS for shares in steps)
        by_name["quality"] = Shift(was, is_now, distance, max(0.0, distance - error), tolerated["quality"])
    for name in SHARES if before.items and now.items else ():
        was, is_now = (one.counts.get(name, 0) / one.items for one in (before, now))
        low, high = newcombe_interval(now.counts.get(name, 0), now.items, before.counts.get(name, 0), before.items, confidence)
        by_name[name] = Shift(was, is_now, abs(is_now - was), max(0.0, low, -high), tolerated[name])
    return by_name


def sampling_error(items: int, confidence: float) -> float:
    """Bound a sample's distance from its population's distribution. Two such bounds hold together with ``confidence``."""
    return math.sqrt(math.log(4 / (1 - confidence)) / (2 * items))


def newcombe_interval(hits: int, items: int, other_hits: int, other_items: int, confidence: float) -> tuple[float, float]:
    """Return Newcombe's interval of the first share less the other one."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    one, other = hits / items, other_hits / other_items
    (low, high), (other_low, other_high) = _wilson(one, items, z), _wilson(other, other_items, z)
    middle = one - other
    return middle - math.hypot(one - low, other_high - other), middle + math.hypot(high - one, other - other_low)


def kolmogorov_smirnov(one: Qualities, other: Qualities) -> float:
    """Return the largest distance between two empirical distributions, [0, 1]; ties count together."""
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(some), values, side="right") / len(some) for some in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def stability_index(one: Qualities, other: Qualities) -> float:
    """Return the population stability index: Σ (q - p)·ln(q / p) of both shares per decile of the first."""
    edges = np.unique(np.quantile(one, np.linspace(0, 1, BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, some, side="left"), minlength=len(edges) + 1) for some in (one, other)]
    p, q = (np.maximum(count / count.sum(), MIN_SHARE) for count in counts)
    return float(((q - p) * np.log(q / p)).sum())


def drift_report(by_name: Mapping[str, Shift]) -> dict[str, Any]:
    """Return JSON facts: ``drifted``, ``said`` (a sentence on shifts above the tolerance) and ``shifts`` by name."""
    each = {name: asdict(shift) | {"drifted": shift.drifted} for name, shift in by_name.items()}
    return {"drifted": any(shift.drifted for shift in by_name.values()), "said": _message(by_name), "shifts": each}


def _message(by_name: Mapping[str, Shift]) -> str:
    parts = [
        f"the distribution of quality by at least {shift.at_least:.3f} ({shift.tolerated:g} is tolerated; its median went from "
        f"{shift.before:.3f} to {shift.now:.3f})"
        if name == "quality"
        else f"the share of {name} by at least {shift.at_least:.1%} ({shift.tolerated:.1%}; from {shift.before:.1%} to "
        f"{shift.now:.1%})"
        for name, shift in by_name.items()
        if shift.drifted
    ]
    return ", ".join(parts)


def _wilson(share: float, items: int, z: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Journal of the American Statistical Association 22, 1927, 209-212)."""
    centre, spread = share + z * z / (2 * items), z * math.sqrt((share * (1 - share) + z * z / (4 * items)) / items)
    return max(0.0, (centre - spread) / (1 + z * z / items)), min(1.0, (centre + spread) / (1 + z * z / items))
