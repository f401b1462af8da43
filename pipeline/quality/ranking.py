"""Evaluate a quality score: does it rank bad masks first, and is it a calibrated probability?

``score`` is higher for better masks, ``dice`` their Dice. Items of equal score share the mean of their values, so the
order of the rows does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.quality.intervals import Interval, interval

FAILED_BELOW = 0.9
"""Dice below which a mask is a failure."""
GOOD_FROM = 0.95
"""Dice from which on a mask is good. The quality is the probability of this."""
BINS = 5
COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """Evaluation of one score on N items."""

    items: int
    failures: int
    numbers: dict[str, Interval]
    """Values by name, see ``RANKING_METRICS``."""
    curve: tuple[tuple[float, float], ...]
    """Coverage, and the mean of 1 - Dice over the best-scored items up to it."""


def evaluate_score(score: Floats, dice: Floats, groups: npt.NDArray[np.int64] | None = None) -> Ranking:
    """Compute all metrics of a score, (N,) each, with 95 % intervals from resampled items or groups (``intervals``)."""

    def with_interval(metric: Callable[[Floats, Floats], float]) -> Interval:
        return interval(lambda rows: metric(score[rows], dice[rows]), len(score), groups)

    numbers = {name: with_interval(metric) for name, (metric, _) in RANKING_METRICS.items()}
    risks = selective_risks(score, 1 - dice)
    at = [max(1, round(coverage * len(score))) - 1 for coverage in COVERAGES] if len(score) else []
    curve = tuple((coverage, float(risks[row])) for coverage, row in zip(COVERAGES, at, strict=False))
    return Ranking(len(score), int((dice < FAILED_BELOW).sum()), numbers, curve)


def spearman(a: Floats, b: Floats) -> float:
    """Return the correlation of the ranks (equal values share theirs); [-1, 1], NaN if one is constant (Spearman, 1904)."""
    one, other = ranks(a), ranks(b)
    one, other = one - one.mean() if len(one) else one, other - other.mean() if len(other) else other
    spread = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / spread) if spread else np.nan


def kendall(a: Floats, b: Floats) -> float:
    """Return τ-b: (concordant - discordant pairs) / √(pairs that differ in a · in b); [-1, 1] (Kendall, 1945)."""
    one, other = _dense(a), _dense(b)
    pairs = len(a) * (len(a) - 1) // 2
    equal_a, equal_b = _pairs(np.bincount(one)), _pairs(np.bincount(other))
    both = _pairs(np.unique(one * (other.max(initial=0) + 1) + other, return_counts=True)[1])
    spread = np.sqrt(float(pairs - equal_a)) * np.sqrt(float(pairs - equal_b))
    if not spread:
        return np.nan
    discordant = inversions(other[np.lexsort((other, one))])
    return float((pairs - equal_a - equal_b + both - 2 * discordant) / spread)


def auroc(score: Floats, positive: Flags) -> float:
    """Return the chance that a positive scores above a negative, ties counting half; [0, 1] (Hanley and McNeil, 1982)."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return np.nan
    return float((ranks(score)[positive].sum() - count * (count + 1) / 2) / (count * others))


def aupr(score: Floats, positive: Flags) -> float:
    """Return average precision, Σ Δrecall·precision over falling scores; [0, 1], the positives' share by chance."""
    if not positive.any():
        return np.nan
    order = np.argsort(-score, kind="stable")
    hits, last = np.cumsum(positive[order]), np.flatnonzero(np.diff(-score[order], append=np.inf))  # last of its equals
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def selective_risks(score: Floats, risk: Floats) -> Floats:
    """Return the mean risk of the 1, 2, … N items that score best (El-Yaniv and Wiener, 2010); (N,)."""
    order = np.argsort(-score, kind="stable")
    return np.asarray(np.cumsum(_shared(score, risk)[order]) / np.arange(1, len(order) + 1))


def aurc(score: Floats, risk: Floats) -> float:
    """Return the area under the risk-coverage curve, the mean of ``selective_risks`` (Geifman et al., ICLR 2019)."""
    return float(selective_risks(score, risk).mean()) if len(risk) else np.nan


def excess_aurc(score: Floats, risk: Floats) -> float:
    """Return AURC less that of the best order, by the risk itself; 0 and more (Geifman et al., ICLR 2019)."""
    return aurc(score, risk) - aurc(-risk, risk)


def calibration_error(probability: Floats, happened: Flags) -> float:
    """Return Σ (n_b / n)·|mean probability - observed share| over five bins of equal size; [0, 1].

    Nguyen and O'Connor, EMNLP 2015.
    """
    order = np.argsort(probability, kind="stable")
    gap = (probability - _shared(probability, happened.astype(np.float64)))[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gap, BINS)) / len(gap)) if len(gap) else np.nan


RANKING_METRICS: dict[str, tuple[Callable[[Floats, Floats], float], str]] = {
    "spearman": (spearman, "Spearman's correlation with Dice"),
    "kendall": (kendall, "Kendall's τ-b with Dice"),
    "auroc": (lambda score, dice: auroc(-score, dice < FAILED_BELOW), "AUROC for failures, Dice < 0.9"),
    "aupr": (lambda score, dice: aupr(-score, dice < FAILED_BELOW), "AUPR for failures, Dice < 0.9"),
    "aurc": (lambda score, dice: aurc(score, 1 - dice), "AURC, risk 1 - Dice"),
    "excess_aurc": (lambda score, dice: excess_aurc(score, 1 - dice), "AURC above the best possible"),
    "calibration_error": (
        lambda score, dice: calibration_error(score, dice >= GOOD_FROM),
        "calibration error, Dice ≥ 0.95, five equal-mass bins",
    ),
}
"""Functions of a score and the Dice of the same items, and their titles."""


def ranks(values: Floats) -> Floats:
    """Rank from 1 for the lowest to N for the highest; equal values share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


def inversions(numbers: npt.NDArray[np.int64]) -> int:
    """Count the pairs of non-negative numbers of which the larger comes first, in O(N·log²N).

    Compared from the highest bit down, the first bit that differs is 1 in the earlier and 0 in the later number.
    """
    total = 0
    for digit in range(int(numbers.max(initial=0)).bit_length()):
        group = numbers >> (digit + 1)
        order = np.argsort(group, kind="stable")
        one = (numbers[order] >> digit) & 1
        before = np.cumsum(one) - one
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        before -= np.repeat(before[starts], np.diff(starts, append=len(one)))
        total += int(before[one == 0].sum())
    return total


def _shared(score: Floats, values: Floats) -> Floats:
    """Replace the values of equal scores by their mean."""
    _, places, counts = np.unique(score, return_inverse=True, return_counts=True)
    return np.asarray((np.bincount(places, values, len(counts)) / np.maximum(counts, 1))[places])


def _dense(values: Floats) -> npt.NDArray[np.int64]:
    return np.asarray(np.unique(values, return_inverse=True)[1], np.int64)


def _pairs(counts: npt.NDArray[np.int64]) -> int:
    return int((counts * (counts - 1) // 2).sum())
