from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.quality.intervals import Interval, highest_mean, interval, means


def test_the_interval_of_a_mean_agrees_with_theory() -> None:
    """For a normal sample: 1.96 standard errors to each side."""
    values = np.random.default_rng(1).normal(5, 2, (400, 1))
    (found,) = means(values)
    assert found.value == pytest.approx(values.mean())
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_intervals_are_deterministic() -> None:
    values = np.random.default_rng(2).random((50, 3))
    one, other = ((means(values), interval(lambda drawn: float(values[drawn, 0].mean()), 50)) for _ in range(2))
    assert one == other


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).random((40, 2))
    expected = means(values)
    monkeypatch.setattr("pipeline.quality.intervals._CHUNK", 280)
    np.testing.assert_allclose(means(values), expected)


def test_nans_are_left_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    first, second = means(values)
    assert first.value == 2
    assert 1 <= first.low <= first.high <= 3
    assert all(math.isnan(number) for number in second)


def test_without_items_all_is_nan() -> None:
    for found in (*means(np.empty((0, 2))), highest_mean(np.empty((0, 256), np.float32)), interval(lambda _: 1.0, 0)):
        assert all(math.isnan(number) for number in found)


def test_the_maximum_over_thresholds_is_that_of_the_mean_curve() -> None:
    curves = np.zeros((2, 4), np.float32)
    curves[0, 1] = curves[1, 2] = 1
    found = highest_mean(curves)
    assert found.value == 0.5, "the mean of the two maxima would be 1"
    assert found.low == 0.5
    assert found.high == 1, "a resample can hold one item twice"


def test_one_item_has_no_spread() -> None:
    assert means(np.array([[0.25]])) == [Interval(0.25, 0.25, 0.25)]


def test_groups_are_drawn_together() -> None:
    """Ten repetitions of a hundred values have the interval of the hundred."""
    once = np.random.default_rng(5).random((100, 1))
    groups = np.repeat(np.arange(100), 10)
    (alone,), (grouped,) = means(once), means(np.repeat(once, 10, 0), groups)
    (naive,) = means(np.repeat(once, 10, 0))
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)
    values = np.repeat(once[:, 0], 10)
    again = interval(lambda drawn: float(values[drawn].mean()), 1000, groups)
    assert again.high - again.low == pytest.approx(grouped.high - grouped.low, rel=0.1)
    assert again.value == pytest.approx(grouped.value)


def test_groups_of_one_equal_no_groups() -> None:
    values = np.random.default_rng(6).random((40, 2))
    np.testing.assert_allclose(means(values, np.arange(40)), means(values))
    assert highest_mean(values.astype(np.float32), np.arange(40)).value == highest_mean(values.astype(np.float32)).value
