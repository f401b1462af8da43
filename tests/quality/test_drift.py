"""Drift is told from chance: it is seen where there is some, and not where samples differ as samples do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pipeline.quality.drift import (
    Distribution,
    difference,
    kolmogorov_smirnov,
    sampling_error,
    shifts,
    stability_index,
    verdict,
)

TOLERATED = {"quality": 0.1, "review": 0.05, "failed": 0.02}


def lot(rng: np.random.Generator, items: int, *, high: float = 8.0, failed: float = 0.01) -> Distribution:
    """Qualities of a beta distribution; those below 0.6 are for review."""
    bad = int(rng.binomial(items, failed))
    qualities = rng.beta(high, 2, items - bad)
    review = int((qualities < 0.6).sum())
    return Distribution.of({"ok": items - bad - review, "review": review, "failed": bad}, qualities)


def test_distances_are_scipys_and_nothing_where_nothing_moved() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random(500).round(2), rng.random(300).round(2) ** 2
    assert kolmogorov_smirnov(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert kolmogorov_smirnov(one, one) == stability_index(one, one) == 0
    assert stability_index(one, other) > 0.25
    found = shifts(Distribution.of({"ok": 500}, one), Distribution.of({"ok": 300}, other), TOLERATED, 0.999)["quality"]
    assert found.distance == pytest.approx(kolmogorov_smirnov(one, other))
    assert found.before == pytest.approx(np.median(one), abs=0.01)


def test_chance_alone_never_warns_and_a_real_shift_does() -> None:
    rng = np.random.default_rng(1)
    calm = [shifts(lot(rng, 5000), lot(rng, items), TOLERATED, 0.999) for items in (10, 100, 1000) for _ in range(100)]
    assert not any(shift.drifted for found in calm for shift in found.values())
    worse = shifts(lot(rng, 5000), lot(rng, 1000, high=4.0, failed=0.08), TOLERATED, 0.999)
    assert {name for name, shift in worse.items() if shift.drifted} == {"quality", "review", "failed"}
    assert all(0 < shift.at_least < shift.distance for shift in worse.values())
    better = shifts(lot(rng, 1000, high=4.0), lot(rng, 1000), TOLERATED, 0.999)
    assert better["quality"].drifted and better["quality"].now > better["quality"].before


def test_a_large_lot_may_differ_within_what_is_tolerated() -> None:
    """A test of sameness would call these two different with certainty."""
    rng = np.random.default_rng(2)
    one, other = lot(rng, 400_000), lot(rng, 400_000, high=7.7)
    found = shifts(one, other, TOLERATED, 0.999)
    assert 0 < found["quality"].at_least < found["quality"].distance < 0.1
    assert not verdict(found)["drifted"] and verdict(found)["said"] == ""


def test_the_bounds_are_the_papers() -> None:
    """Newcombe's table II, case (a): 56/70 against 48/80 by method 10; Massart's bound on two samples at once."""
    assert difference(56, 70, 48, 80, 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference(0, 10, 0, 20, 0.95) == pytest.approx((-0.1611, 0.2775), abs=5e-5)
    assert 2 * np.exp(-2 * 500 * sampling_error(500, 0.99) ** 2) == pytest.approx(0.005)


def test_nothing_is_said_of_nothing() -> None:
    none, some = Distribution.of({}, np.empty(0)), Distribution.of({"ok": 3}, np.array([0.5, 0.6, 0.7]))
    assert shifts(some, none, TOLERATED, 0.999) == shifts(none, some, TOLERATED, 0.999) == {}
    assert set(shifts(some, Distribution.of({"failed": 9}, np.empty(0)), TOLERATED, 0.999)) == {"review", "failed"}
