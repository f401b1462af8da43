"""Fit a calibration by monotone boosting with scikit-learn, on masks with known Dice or a person's review.

Boosting adds one stump at a time to the log odds (Friedman, 2001), each on one signal in that signal's own direction
(``RISING``, ``FALLING``). The result is a sum of one monotone curve per signal. It learns two thresholds at once, because
failures say more about the order than good masks alone. A slope and an offset make it the probability of a good mask (Platt,
1999). They and the number of stumps are chosen by cross-validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.quality.calibration import AGREEMENT, DETECTOR_SCORE, Term

RISING = (
    *("expected_dice", "soft_dice", "stability", "confidence", "slope", "support", "contrast", "largest_share"),
    *(DETECTOR_SCORE, AGREEMENT),
)
"""Signals that never lower the quality when they increase. ``box_agreement`` is none of them: a whole object in a loose box has
as low a value as half of one in a tight box."""
FALLING = ("uncertain_share", "stray", "gaps", "box_outside")
"""Signals that never raise the quality when they increase."""

MIN_ITEMS, MIN_PER_CLASS = 100, 20
"""Smallest number of items, and of good and of bad ones."""

FOLDS = 5
ROUNDS = (25, 50, 100, 200)
"""Numbers of stumps to choose from."""
RATE, LEAF = 0.1, 20
POINTS = 33
"""Largest number of points per curve."""

EXTRAPOLATED = ("expected_dice", "box_outside")
SLOPE, HALVINGS, MIN_REST = 3.0, 8, 1e-3
"""The curves of these signals, all shares, are extrapolated where the boosting ends: with this slope in log odds, over this
many halvings of the rest, unless the rest is below the minimum. The boosting is flat where all its masks were bad. A mask that
is inverted, incomplete or of a box beside the object is even worse, and no other signal shows that.
"""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


class Boosting(Protocol):
    """Scikit-learn's interface."""

    def decision_function(self, values: Floats) -> Floats:
        """Return log odds (N,) for (N, signals)."""
        ...

    def staged_decision_function(self, values: Floats) -> Iterator[Floats]:
        """Yield the log odds (N,) after each stump."""
        ...


@dataclass(frozen=True)
class Fit:
    """The sum, in log odds of a good mask."""

    bias: float
    terms: dict[str, Term]
    held_out: tuple[float, ...]
    """(N,) The log odds of each item by curves that were fitted on four fifths of the photos, its own not among them. They have
    as many stumps as the fit on all photos."""


def check_library() -> None:
    """Check that scikit-learn is installed.

    Raises:
        ConfigError: It is not.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ConfigError("calibrate needs scikit-learn: pip install 'matteline[calibrate]'") from None


def fit(signals: Mapping[str, Floats], good: Flags, fair: Flags, groups: npt.NDArray[np.int64]) -> Fit:
    """Fit the sum of curves that separates good masks best.

    Args:
        signals: (N,) by name, NaN where null. Those in ``RISING`` and ``FALLING`` are used.
        good: (N,), whether a mask is good.
        fair: (N,), whether a mask is no failure.
        groups: (N,), number of the item's photo. All items of a photo are held out together.

    Raises:
        ConfigError: There are too few items, good ones, bad ones or photos.
    """
    smaller_class = int(min(good.sum(), (~good).sum()))
    if len(good) < MIN_ITEMS or smaller_class < MIN_PER_CLASS or len(np.unique(groups)) < FOLDS:
        raise ConfigError(
            f"{len(good)} items with a Dice or a review, {int(good.sum())} of them good, are too few to fit a calibration; "
            f"evaluate at least {MIN_ITEMS}, of them {MIN_PER_CLASS} good and {MIN_PER_CLASS} bad, from {FOLDS} photos or more"
        )
    from threadpoolctl import threadpool_limits

    names = [name for name in (*RISING, *FALLING) if name in signals and np.isfinite(signals[name]).any()]
    values = np.stack([signals[name] for name in names], 1)
    rising = [1 if name in RISING else -1 for name in names]
    with threadpool_limits(1):  # with more threads so few items take minutes on a busy machine
        parts = _parts(values, good, groups)
        odds = _odds_by_rounds(values, good, fair, rising, parts)
        lines = {rounds: _platt(one, good) for rounds, one in odds.items()}
        rounds = min(lines, key=lambda rounds: _loss(lines[rounds][0] * odds[rounds] + lines[rounds][1], good))
        held_out = np.zeros(len(good))
        for train, test in parts:
            boosted = _boost(values[train], good[train], fair[train], rising, rounds)
            line = _platt(odds[rounds][train], good[train])
            held_out[test] = _sum(*_curves(boosted, values[train], good[train], names, line), values[test], names)
        bias, terms = _curves(_boost(values, good, fair, rising, rounds), values, good, names, lines[rounds])
    return Fit(bias, terms, tuple(held_out.tolist()))


def _boost(values: Floats, good: Flags, fair: Flags, rising: list[int], rounds: int) -> Boosting:
    from sklearn.ensemble import HistGradientBoostingClassifier

    stumps: Any = HistGradientBoostingClassifier(
        learning_rate=RATE,
        max_iter=rounds,
        max_leaf_nodes=2,
        min_samples_leaf=LEAF,
        monotonic_cst=rising,
        early_stopping=False,
    )
    fitted: Boosting = stumps.fit(np.concatenate([values, values]), np.concatenate([good, fair]))
    return fitted


def _parts(values: Floats, good: Flags, groups: npt.NDArray[np.int64]) -> list[tuple[Rows, Rows]]:
    """Return the rows to fit on and those to predict, for each fifth of the photos."""
    from sklearn.model_selection import GroupKFold

    return list(GroupKFold(FOLDS).split(values, good, groups))


def _odds_by_rounds(
    values: Floats, good: Flags, fair: Flags, rising: list[int], parts: Sequence[tuple[Rows, Rows]]
) -> dict[int, Floats]:
    """Return the log odds (N,), predicted by boosting without the item's photo, by number of stumps."""
    predicted = {rounds: np.zeros(len(good)) for rounds in ROUNDS}
    for train, test in parts:
        boosted = _boost(values[train], good[train], fair[train], rising, max(ROUNDS))
        for rounds, odds in enumerate(boosted.staged_decision_function(values[test]), 1):
            if rounds in predicted:
                predicted[rounds][test] = odds
    return predicted


def _platt(odds: Floats, good: Flags) -> tuple[float, float]:
    """Return the slope and offset that turn predicted log odds into those of a good mask."""
    from sklearn.linear_model import LogisticRegression

    line = LogisticRegression(C=1e6).fit(odds[:, None], good)
    return max(0.0, float(line.coef_[0, 0])), float(line.intercept_[0])


def _loss(odds: Floats, good: Flags) -> float:
    """Return the mean cross entropy in nats."""
    return float(np.logaddexp(0, np.where(good, -odds, odds)).mean())


def _curves(
    boosted: Boosting, values: Floats, good: Flags, names: list[str], line: tuple[float, float]
) -> tuple[float, dict[str, Term]]:
    """Convert the boosting to a bias and one curve per signal, by varying one signal and keeping the others."""
    slope, offset = line
    base = np.nanmedian(values, 0)
    middle = float(boosted.decision_function(base[None])[0])
    terms = {}
    for column, name in enumerate(names):
        own = values[:, column]
        at = np.unique(np.quantile(own[np.isfinite(own)], np.linspace(0, 1, POINTS)).round(5))
        probe = np.repeat(base[None], len(at) + 1, 0)
        probe[:, column] = [*at, np.nan]
        *adds, missing = (slope * (boosted.decision_function(probe) - middle)).round(5).tolist()
        if len(set(adds)) > 1:
            usual = np.where(np.isfinite(own), np.interp(own, at, adds), missing)[good].mean()
            points = list(zip(at.tolist(), adds, strict=True))
            if name in EXTRAPOLATED:
                points = _extrapolate(points) if name in RISING else _mirror(_extrapolate(_mirror(points)))
            values_at, added = zip(*points, strict=True)
            terms[name] = Term(at=values_at, adds=added, missing=missing, usual=round(float(usual), 5))
    return round(offset + slope * middle, 5), terms


def _sum(bias: float, terms: Mapping[str, Term], values: Floats, names: Sequence[str]) -> list[float]:
    """Return the log odds of items, with values (N, signals), by the curves."""
    rows = [{name: None if np.isnan(one) else one for name, one in zip(names, row, strict=True)} for row in values.tolist()]
    return [bias + sum(term.log_odds(row[name]) for name, term in terms.items()) for row in rows]


Points = list[tuple[float, float]]
"""Points of a curve: value and contribution."""


def _extrapolate(points: Points) -> Points:
    """Replace the lowest plateau of a rising curve over [0, 1] by a line over the values' own log odds."""
    lowest = points[0][1]
    first = max(place for place, (_, add) in enumerate(points) if add == lowest)
    start = points[first][0]
    if start < MIN_REST:
        return points
    ends = [start / 2**times for times in range(HALVINGS, 0, -1)]
    line = [(round(end, 6), round(lowest - SLOPE * (_log_odds(start) - _log_odds(end)), 5)) for end in ends]
    return [*line, *points[first:]]


def _mirror(points: Points) -> Points:
    """Return the curve over 1 less the value."""
    return [(round(1 - value, 6), add) for value, add in reversed(points)]


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))
