"""The expected number of masks that are not good, against the exact Poisson binomial distribution."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.quality.expectation import Expectation


def exact(quality: np.ndarray) -> np.ndarray:
    """Return P(0, 1, … N masks are not good), by adding one mask at a time."""
    chances = np.ones(1)
    for good in quality:
        chances = np.convolve(chances, [good, 1 - good])
    return chances


@pytest.mark.parametrize("items", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("bad", [0.0005, 0.02, 0.1, 0.5])
def test_the_interval_covers_the_exact_distribution(items: int, bad: float) -> None:
    quality = 1 - bad * np.random.default_rng(items).uniform(0.5, 1.5, items)
    expected, chances = Expectation.of(quality), exact(quality)
    numbers = np.arange(items + 1)
    assert expected.mean == pytest.approx(chances @ numbers)
    assert expected.variance == pytest.approx(chances @ numbers**2 - (chances @ numbers) ** 2, abs=1e-9)
    low, high = expected.interval()
    assert chances[low : high + 1].sum() >= 0.945
    assert chances[low + 1 : high].sum() < 0.96, "not much wider than needed"


def test_parts_add_up() -> None:
    quality = np.random.default_rng(1).uniform(0.5, 1, 100).astype(np.float32)
    parts = [Expectation.of(quality[:30]), Expectation.of(quality[30:]), Expectation()]
    total, whole = sum(parts, Expectation()), Expectation.of(quality)
    assert total.items == whole.items == 100
    assert (total.mean, total.variance) == pytest.approx((whole.mean, whole.variance))


def test_words_and_facts() -> None:
    expected = Expectation(812, 41.3, 34.0)
    assert expected.describe() == "of 812 ok items, 41 (30 to 53) are expected to have a Dice below 0.95"
    assert expected.facts() == {"dice_below": 0.95, "ok": 812, "expected": 41.3, "low": 30, "high": 53}
    assert Expectation(3, 0.2, 0.1).interval() == (0, 1)
    assert Expectation.of(np.zeros(2)).interval() == (2, 2)


def test_nothing_is_said_without_items() -> None:
    assert Expectation().describe() == "" and Expectation().facts() is None
