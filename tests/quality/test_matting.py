from __future__ import annotations

import numpy as np
import pytest

from pipeline.quality.matting import matting_errors


def square(side: int = 40, level: float = 1.0) -> np.ndarray:
    alpha = np.zeros((side, side), np.float32)
    alpha[10:30, 10:30] = level
    return alpha


def test_ground_truth_has_no_error() -> None:
    rng = np.random.default_rng(0)
    alpha = rng.random((30, 50), np.float32)
    assert matting_errors(alpha, alpha) == (0, 0, 0, 0)


def test_sad_and_mse_of_a_known_difference() -> None:
    ground_truth = square()
    errors = matting_errors(ground_truth * np.float32(0.5), ground_truth)
    assert errors.sad == pytest.approx(400 * 0.5 / 1000)
    assert errors.mse == pytest.approx(400 * 0.25 / 1600)


def test_a_region_excludes_the_rest() -> None:
    ground_truth, alpha = square(), square()
    alpha[0, 0] = 1
    region = np.zeros(ground_truth.shape, bool)
    region[5:35, 5:35] = True
    assert matting_errors(alpha, ground_truth, region).sad == 0
    assert matting_errors(alpha, ground_truth, ~region).sad == pytest.approx(0.001)


def test_grad_of_a_step() -> None:
    """A step of height h has, along its normal, Σ|∇|² = h²·Σ(Σ slope)²: half of the height leaves a quarter of the error."""
    ground_truth = np.zeros((60, 60), np.float32)
    ground_truth[:, 30:] = 1
    none, half = (matting_errors(ground_truth * np.float32(share), ground_truth).grad for share in (0, 0.5))
    assert half == pytest.approx(none / 4, rel=1e-4)
    assert none > 0


def test_conn_is_larger_for_unconnected_pixels() -> None:
    """The same pixels count more apart from the object than at its edge."""
    ground_truth = square(60)
    joined, apart = ground_truth.copy(), ground_truth.copy()
    joined[30:32, 10:30] = 0.4
    apart[50:52, 10:30] = 0.4
    assert matting_errors(joined, ground_truth).sad == pytest.approx(matting_errors(apart, ground_truth).sad)
    assert matting_errors(apart, ground_truth).conn >= matting_errors(joined, ground_truth).conn > 0
