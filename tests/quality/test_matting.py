from __future__ import annotations

import numpy as np
import pytest

from pipeline.quality.matting import matting_errors


def square(side: int = 40, level: float = 1.0) -> np.ndarray:
    alpha = np.zeros((side, side), np.float32)
    alpha[10:30, 10:30] = level
    return alpha


def test_the_truth_has_no_error() -> None:
    rng = np.random.default_rng(0)
    alpha = rng.random((30, 50), np.float32)
    assert matting_errors(alpha, alpha) == (0, 0, 0, 0)


def test_sad_and_mse_of_a_known_difference() -> None:
    truth = square()
    errors = matting_errors(truth * np.float32(0.5), truth)
    assert errors.sad == pytest.approx(400 * 0.5 / 1000)
    assert errors.mse == pytest.approx(400 * 0.25 / 1600)


def test_a_region_leaves_the_rest_out() -> None:
    truth, alpha = square(), square()
    alpha[0, 0] = 1
    region = np.zeros(truth.shape, bool)
    region[5:35, 5:35] = True
    assert matting_errors(alpha, truth, region).sad == 0
    assert matting_errors(alpha, truth, ~region).sad == pytest.approx(0.001)


def test_grad_is_that_of_a_step() -> None:
    """A step of height h has, along its normal, Σ|∇|² = h²·Σ(Σ slope)²: half of the height leaves a quarter of the error."""
    truth = np.zeros((60, 60), np.float32)
    truth[:, 30:] = 1
    whole = matting_errors(np.zeros_like(truth), truth).grad
    half = matting_errors(truth * np.float32(0.5), truth).grad
    assert half == pytest.approx(whole / 4, rel=1e-4)
    assert whole > 0


def test_conn_punishes_what_hangs_nowhere() -> None:
    """The same pixels cost more apart from the object than in its edge."""
    truth = square(60)
    joined, apart = truth.copy(), truth.copy()
    joined[30:32, 10:30] = 0.4
    apart[50:52, 10:30] = 0.4
    assert matting_errors(joined, truth).sad == pytest.approx(matting_errors(apart, truth).sad)
    assert matting_errors(apart, truth).conn >= matting_errors(joined, truth).conn > 0
