"""The threshold is the lowest one from which on few ok items are failures."""

from __future__ import annotations

import numpy as np

from pipeline.evaluate.threshold import choose_threshold


def items(*groups: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return quality, Dice and photo of groups of a quality, a number of good items and a number of failures.

    Two items each are of one photo.
    """
    quality = np.concatenate([np.full(good + bad, at) for at, good, bad in groups])
    dice = np.concatenate([[0.9] * good + [0.899] * bad for _, good, bad in groups])
    return quality, dice, np.arange(len(dice)) // 2


def test_the_lowest_threshold_with_few_failures() -> None:
    chosen = choose_threshold(*items((0.8, 95, 5), (0.302, 25, 25)))
    assert chosen is not None
    assert (chosen.review_below, chosen.items, chosen.ok, chosen.failures) == (0.31, 150, 100, 5)
    assert chosen.describe() == (
        "review_below 0.31: 100 of 150 items are ok; 5 of these (5.0%) have a Dice below 0.9. They are of 3 of 50 "
        "photos (with 95 % confidence at most 14.8%)"
    )


def test_a_dip_below_the_limit_is_not_enough() -> None:
    """Of all 260 items 13 are failures, which is 5 %, but of the best 110 items 10."""
    chosen = choose_threshold(*items((0.9, 70, 0), (0.7, 30, 10), (0.4, 147, 3)))
    assert chosen is not None and chosen.review_below == 0.71


def test_few_ok_items_show_nothing() -> None:
    assert choose_threshold(*items((0.9, 59, 0))) is None
    assert choose_threshold(*items((0.9, 60, 0), (0.5, 0, 60))) is not None
    few = choose_threshold(*items((0.95, 0, 1), (0.9, 59, 0), (0.8, 40, 0)))
    assert few is not None and few.review_below == 0.01, "the share among the best few may be high by chance"


def test_failures_with_the_highest_quality_leave_no_threshold() -> None:
    assert choose_threshold(*items((0.9, 20, 40), (0.5, 1000, 0))) is None
    assert choose_threshold(np.empty(0), np.empty(0), np.empty(0, np.int64)) is None


def test_a_mask_with_a_flag_is_never_ok() -> None:
    chosen = choose_threshold(*items((0.9, 100, 0), (0.0, 0, 1)))
    assert chosen is not None and chosen.review_below == 0.01
