"""Real drift is detected, and the chance differences of samples are not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pipeline.quality.drift import (
    Distribution,
    drift_report,
    kolmogorov_smirnov,
    newcombe_interval,
    sampling_error,
    shifts,
    stability_index,
)

TOLERATED = {"quality": 0.1, "review": 0.05, "failed": 0.02}


def sample(rng: np.random.Generator, items: int, *, high: float = 8.0, failed: float = 0.01) -> Distribution:
    """Draw qualities from a beta distribution; those below 0.6 are for review."""
    bad = int(rng.binomial(items, failed))
    qualities = rng.beta(high, 2, items - bad)
    review = int((qualities < 0.6).sum())
    return Distribution.of({"ok": items - bad - review, "review": review, "failed": bad}, qualities)


def test_distances_equal_scipy_s_and_are_0_for_equal_samples() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.random(500).round(2), rng.random(300).round(2) ** 2
    assert kolmogorov_smirnov(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert kolmogorov_smirnov(one, one) == stability_index(one, one) == 0
    assert stability_index(one, other) > 0.25
    found = shifts(Distribution.of({"ok": 500}, one), Distribution.of({"ok": 300}, other), TOLERATED, 0.999)["quality"]
    assert found.distance == pytest.approx(kolmogorov_smirnov(one, other))
    assert found.before == pytest.approx(np.median(one), abs=0.01)


def test_real_shifts_are_reported_and_chance_is_not() -> None:
    rng = np.random.default_rng(1)
    calm = [shifts(sample(rng, 5000), sample(rng, items), TOLERATED, 0.999) for items in (10, 100, 1000) for _ in range(100)]
    assert not any(shift.drifted for found in calm for shift in found.values())
    worse = shifts(sample(rng, 5000), sample(rng, 1000, high=4.0, failed=0.08), TOLERATED, 0.999)
    assert {name for name, shift in worse.items() if shift.drifted} == {"quality", "review", "failed"}
    assert all(0 < shift.at_least < shift.distance for shift in worse.values())
    better = shifts(sample(rng, 1000, high=4.0), sample(rng, 1000), TOLERATED, 0.999)
    assert better["quality"].drifted and better["quality"].now > better["quality"].before


def test_large_samples_may_differ_within_the_tolerance() -> None:
    """A test for equality would certainly reject it here."""
    rng = np.random.default_rng(2)
    one, other = sample(rng, 400_000), sample(rng, 400_000, high=7.7)
    found = shifts(one, other, TOLERATED, 0.999)
    assert 0 < found["quality"].at_least < found["quality"].distance < 0.1
    assert not drift_report(found)["drifted"] and drift_report(found)["said"] == ""


def test_the_bounds_equal_the_papers() -> None:
    """Newcombe's table II, case (a): 56/70 against 48/80 by method 10; Massart's bound for two samples."""
    assert newcombe_interval(56, 70, 48, 80, 0.95) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe_interval(0, 10, 0, 20, 0.95) == pytest.approx((-0.1611, 0.2775), abs=5e-5)
    assert 2 * np.exp(-2 * 500 * sampling_error(500, 0.99) ** 2) == pytest.approx(0.005)


def test_empty_samples_have_no_shifts() -> None:
    none, some = Distribution.of({}, np.empty(0)), Distribution.of({"ok": 3}, np.array([0.5, 0.6, 0.7]))
    assert shifts(some, none, TOLERATED, 0.999) == shifts(none, some, TOLERATED, 0.999) == {}
    assert set(shifts(some, Distribution.of({"failed": 9}, np.empty(0)), TOLERATED, 0.999)) == {"review", "failed"}
