"""Estimate how many masks are not good from their calibrated qualities.

Each mask has a Dice below ``GOOD_FROM`` with probability 1 - quality. If masks are independent, their number has a Poisson
binomial distribution. Its mean is Σ(1 - quality), its variance Σ quality·(1 - quality).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.quality.intervals import LEVEL
from pipeline.quality.ranking import GOOD_FROM

REACH = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""Standard deviations from the middle to the ends of an interval: 1.96."""


@dataclass(frozen=True)
class Expectation:
    """The number of masks with a Dice below ``GOOD_FROM`` that is expected among masks with a calibrated quality.

    The expectations of the parts of an index can be summed, so parts are read one at a time.
    """

    items: int = 0
    """Number of masks."""
    mean: float = 0.0
    variance: float = 0.0

    @classmethod
    def of(cls, quality: npt.NDArray[np.floating[Any]]) -> Expectation:
        """Return the expectation for masks with these calibrated qualities, (N,) in [0, 1]."""
        good = quality.astype(np.float64)
        return cls(len(good), float((1 - good).sum()), float((good * (1 - good)).sum()))

    def __add__(self, other: Expectation) -> Expectation:
        """Return the expectation for the masks of both."""
        return Expectation(self.items + other.items, self.mean + other.mean, self.variance + other.variance)

    def interval(self) -> tuple[int, int]:
        """Return the smallest and the largest number of a 95 % interval.

        It is the normal approximation with continuity correction, clipped to [0, items]. It covers at least 94.5 % also where
        few masks are expected, since the correction widens it (``tests/quality/test_expectation.py`` compares it with the exact
        distribution). It does not include errors of the calibration.
        """
        reach = REACH * math.sqrt(self.variance) + 0.5
        return max(0, math.ceil(self.mean - reach)), min(self.items, math.floor(self.mean + reach))

    def facts(self) -> dict[str, Any] | None:
        """Return the numbers as in a run record; None without masks."""
        if not self.items:
            return None
        low, high = self.interval()
        return {"dice_below": GOOD_FROM, "ok": self.items, "expected": round(self.mean, 1), "low": low, "high": high}

    def describe(self) -> str:
        """Return the numbers in words; "" without masks."""
        if not self.items:
            return ""
        low, high = self.interval()
        return f"of {self.items} ok items, {self.mean:.0f} ({low} to {high}) are expected to have a Dice below {GOOD_FROM:g}"
