"""Fitting a calibration: monotone boosting with scikit-learn, on masks whose Dice is known or that a person judged.

One stump at a time, each on one signal and in that signal's own direction (``RISES``, ``FALLS``), is added to the log odds
(Friedman, 2001), so the whole is a sum of one monotone curve a signal. It learns to tell masks at two thresholds at once: what
is a failure says more of the order than good masks alone do. A slope and an offset, fitted on what it says of photos that were
left out (Platt, 1999), then make it the probability of a good mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.quality.calibration import Term

RISES = (
    *("expected_dice", "soft_dice", "stability", "confidence", "slope", "support", "contrast"),
    *("largest_share", "box_agreement"),
)
"""Signals of which more never makes a mask worse."""
FALLS = ("uncertain_share", "stray", "gaps", "box_outside")
"""Signals of which more never makes a mask better."""

LEAST_ITEMS, LEAST_KIND = 100, 20
"""Fewer items, or fewer good or bad ones, say nothing."""

FOLDS = 5
ROUNDS = (25, 50, 100, 200)
"""Numbers of stumps tried."""
RATE, LEAF = 0.1, 20
POINTS = 33
"""Of each curve at most."""

FALLS_ON = ("expected_dice", "box_agreement", "box_outside")
STEEP, HALVINGS, LEAST = 3.0, 8, 1e-3
"""The curves of these signals, shares all, fall on where the boosting's end, so steep in log odds, and through so many halvings
of what is left there; unless that is so small. The boosting is flat where all masks that it saw were bad, but a mask that is
inside out, half of one, or of a box beside the object is worse still, and every other signal is content with it.
"""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Boosting(Protocol):
    """What scikit-learn gives."""

    def decision_function(self, values: Floats) -> Floats:
        """(N, signals) to log odds (N,)."""
        ...


@dataclass(frozen=True)
class Fit:
    """The sum: log odds of a good mask."""

    bias: float
    terms: dict[str, Term]


def check_library() -> None:
    """Refuse to fit without scikit-learn.

    Raises:
        ConfigError: saying how to install it.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ConfigError("calibrate needs scikit-learn: pip install 'matteline[calibrate]'") from None


def fit(signals: Mapping[str, Floats], good: Flags, fair: Flags, groups: npt.NDArray[np.int64]) -> Fit:
    """The sum of curves that tells good masks from others best.

    Args:
        signals: by name (N,), NaN where null; those of ``RISES`` and ``FALLS`` are used.
        good, fair: (N,), which masks are at least good, and which are no failures.
        groups: (N,), which photo an item is of; copies of a photo are left out together.

    Raises:
        ConfigError: too few items, or too few of a kind.
    """
    kind = int(min(good.sum(), (~good).sum()))
    if len(good) < LEAST_ITEMS or kind < LEAST_KIND or len(np.unique(groups)) < FOLDS:
        raise ConfigError(
            f"{len(good)} judged items, {int(good.sum())} of them good, can't be fitted to; evaluate at least {LEAST_ITEMS}, "
            f"of them {LEAST_KIND} good and {LEAST_KIND} bad, from {FOLDS} photos or more"
        )
    from threadpoolctl import threadpool_limits

    names = [name for name in (*RISES, *FALLS) if name in signals and np.isfinite(signals[name]).any()]
    values = np.stack([signals[name] for name in names], 1)
    rising = [1 if name in RISES else -1 for name in names]
    with threadpool_limits(1):  # threads that wait for one another in turn take minutes for so few items on a busy machine
        left_out = _left_out(values, good, fair, groups, rising)
        lines = {rounds: _platt(odds, good) for rounds, odds in left_out.items()}
        rounds = min(lines, key=lambda rounds: _loss(lines[rounds][0] * left_out[rounds] + lines[rounds][1], good))
        return _curves(_boosted(values, good, fair, rising, rounds), values, good, names, lines[rounds])


def _boosted(values: Floats, good: Flags, fair: Flags, rising: list[int], rounds: int) -> Boosting:
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


def _left_out(values: Floats, good: Flags, fair: Flags, groups: npt.NDArray[np.int64], rising: list[int]) -> dict[int, Floats]:
    """What is said of photos that weren't fitted on, (N,) by number of stumps."""
    from sklearn.model_selection import GroupKFold

    found = {rounds: np.zeros(len(good)) for rounds in ROUNDS}
    for seen, unseen in GroupKFold(FOLDS).split(values, good, groups):
        for rounds, odds in found.items():
            odds[unseen] = _boosted(values[seen], good[seen], fair[seen], rising, rounds).decision_function(values[unseen])
    return found


def _platt(odds: Floats, good: Flags) -> tuple[float, float]:
    """Slope and offset that make such odds those of a good mask."""
    from sklearn.linear_model import LogisticRegression

    line = LogisticRegression(C=1e6).fit(odds[:, None], good)
    return max(0.0, float(line.coef_[0, 0])), float(line.intercept_[0])


def _loss(odds: Floats, good: Flags) -> float:
    """Mean cross entropy, in nats."""
    return float(np.logaddexp(0, np.where(good, -odds, odds)).mean())


def _curves(boosted: Boosting, values: Floats, good: Flags, names: list[str], line: tuple[float, float]) -> Fit:
    """The boosting as one curve a signal: what it says as one signal moves and the others stay, which in a sum is all."""
    slope, offset = line
    base = np.nanmedian(values, 0)
    middle = float(boosted.decision_function(base[None])[0])
    terms = {}
    for column, name in enumerate(names):
        own = values[:, column]
        at = np.unique(np.quantile(own[np.isfinite(own)], np.linspace(0, 1, POINTS)).round(5))
        asked = np.repeat(base[None], len(at) + 1, 0)
        asked[:, column] = [*at, np.nan]
        *adds, missing = (slope * (boosted.decision_function(asked) - middle)).round(5).tolist()
        if len(set(adds)) > 1:
            usual = np.where(np.isfinite(own), np.interp(own, at, adds), missing)[good].mean()
            points = list(zip(at.tolist(), adds, strict=True))
            if name in FALLS_ON:
                points = _falling_on(points) if name in RISES else _mirrored(_falling_on(_mirrored(points)))
            values_at, added = zip(*points, strict=True)
            terms[name] = Term(at=values_at, adds=added, missing=missing, usual=round(float(usual), 5))
    return Fit(round(offset + slope * middle, 5), terms)


Points = list[tuple[float, float]]
"""Of a curve: value and what is added."""


def _falling_on(points: Points) -> Points:
    """A rising curve over values in [0, 1] with its lowest plateau replaced by a line over the values' own log odds."""
    lowest = points[0][1]
    first = max(place for place, (_, add) in enumerate(points) if add == lowest)
    begins = points[first][0]
    if begins < LEAST:
        return points
    ends = [begins / 2**times for times in range(HALVINGS, 0, -1)]
    falls = [(round(end, 6), round(lowest - STEEP * (_log_odds(begins) - _log_odds(end)), 5)) for end in ends]
    return [*falls, *points[first:]]


def _mirrored(points: Points) -> Points:
    """The same curve over what is left of 1."""
    return [(round(1 - value, 6), add) for value, add in reversed(points)]


def _log_odds(share: float) -> float:
    return float(np.log(share / (1 - share)))
