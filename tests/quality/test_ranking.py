"""Hand-computed cases, and comparisons with SciPy and scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality.ranking import (
    RANKING_METRICS,
    aupr,
    aurc,
    auroc,
    calibration_error,
    evaluate_score,
    excess_aurc,
    inversions,
    kendall,
    ranks,
    selective_risks,
    spearman,
)

Numbers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=40)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.array(pairs, np.float64).T
    return a, b


def test_equal_values_share_their_rank() -> None:
    assert ranks(np.array([30.0, 10, 20, 20])).tolist() == [4, 1, 2.5, 2.5]


@given(st.lists(st.integers(0, 20), max_size=60))
def test_inversions_count_falling_pairs(numbers: list[int]) -> None:
    wanted = sum(a > b for a, b in itertools.combinations(numbers, 2))
    assert inversions(np.array(numbers, np.int64)) == wanted


@given(Numbers)
def test_correlations_equal_scipy_s(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = columns(pairs)
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert math.isnan(spearman(a, b))
        assert math.isnan(kendall(a, b))
        return
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


@given(Numbers)
def test_areas_equal_scikit_learn_s(pairs: list[tuple[int, int]]) -> None:
    learn = pytest.importorskip("sklearn.metrics")
    score, b = columns(pairs)
    positive = b > 3
    if 0 < positive.sum() < len(positive):
        assert auroc(score, positive) == pytest.approx(learn.roc_auc_score(positive, score), abs=1e-12)
    else:
        assert math.isnan(auroc(score, positive))
    if positive.any():
        assert aupr(score, positive) == pytest.approx(learn.average_precision_score(positive, score), abs=1e-12)


def test_areas_by_hand() -> None:
    score, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert auroc(score, positive) == 3 / 4
    assert aupr(score, positive) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert auroc(np.ones(4), positive) == 0.5
    assert aupr(np.ones(4), positive) == 0.5


def test_risk_and_coverage_by_hand() -> None:
    score, risk = np.array([0.9, 0.1, 0.5]), np.array([0.0, 0.6, 0.3])
    np.testing.assert_allclose(selective_risks(score, risk), [0, 0.15, 0.3])
    assert aurc(score, risk) == pytest.approx(0.15)
    assert excess_aurc(score, risk) == pytest.approx(0)
    np.testing.assert_allclose(selective_risks(-score, risk), [0.6, 0.45, 0.3])
    assert excess_aurc(-score, risk) == pytest.approx(0.3)


def test_a_constant_score_has_the_mean_risk_everywhere() -> None:
    risk = np.array([0.0, 0.2, 0.7])
    np.testing.assert_allclose(selective_risks(np.ones(3), risk), 0.3)


def test_calibration_error_by_hand() -> None:
    probability = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 10)
    happened = np.concatenate([np.arange(10) < round(10 * p) for p in (0.1, 0.3, 0.5, 0.7, 0.9)])
    assert calibration_error(probability, happened) == pytest.approx(0)
    assert calibration_error(probability, np.ones(50, bool)) == pytest.approx(0.5)
    assert calibration_error(np.full(50, 0.8), happened) == pytest.approx(0.3)


@given(Numbers)
def test_the_order_of_the_rows_does_not_matter(pairs: list[tuple[int, int]]) -> None:
    score, dice = columns(pairs)
    score, dice = score / 6, dice / 6
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    for name, (number, _) in RANKING_METRICS.items():
        assert number(score[order], dice[order]) == pytest.approx(number(score, dice), abs=1e-12, nan_ok=True), name


def test_an_evaluation_is_complete() -> None:
    rng = np.random.default_rng(0)
    dice = rng.beta(8, 1, 300)
    found = evaluate_score(np.clip(dice + rng.normal(0, 0.02, 300), 0, 1), dice)
    assert (found.items, found.failures) == (300, int((dice < 0.9).sum()))
    for name, one in found.numbers.items():
        assert one.low <= one.value <= one.high or name == "calibration_error", name
    assert found.numbers["auroc"].value > 0.9
    assert found.curve[-1] == (1.0, pytest.approx(1 - dice.mean()))
    assert evaluate_score(np.empty(0), np.empty(0)).curve == ()


def test_without_failures_areas_are_nan() -> None:
    found = evaluate_score(np.array([0.5, 0.6, 0.7]), np.array([0.95, 0.96, 0.97]))
    assert math.isnan(found.numbers["auroc"].value)
    assert math.isnan(found.numbers["aupr"].value)
    assert found.numbers["spearman"].value == pytest.approx(1)
