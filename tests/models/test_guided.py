from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.frame import Placement
from pipeline.models.refiners.guided import EPS, Guided, apply_both, fit, solve, window_means
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.types import Alpha, Pixels, Size

CPU = torch.device("cpu")


def refined(image: Pixels, base: Alpha) -> tuple[Alpha, Alpha]:
    """Return the base's alpha enlarged, without the refiner and with it."""
    size = image.shape[1], image.shape[0]
    enlarged = cv2.resize(base, size, interpolation=cv2.INTER_LINEAR)
    frame = cv2.resize(image, base.shape[::-1], interpolation=cv2.INTER_AREA)
    placed = Placement(Size(*image.shape[:2]), (0, 0, *size))
    (refinement,) = prepare_refinements(Guided(), [image], [placed], frame[None], torch.from_numpy(base)[None])
    assert refinement is not None
    alpha = enlarged.copy()
    refinement.refine_all(alpha)
    return enlarged, alpha


def strands(side: int, seed: int = 0) -> Alpha:
    """Return the exact coverage (side, side) of a disc with hairs of one to three pixels."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((4 * side, 4 * side), np.uint8)
    cv2.circle(canvas, (2 * side, 2 * side), side, 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, 60):
        towards = np.array([np.cos(angle), np.sin(angle)])
        ends = [(2 * side + towards * reach * side).astype(int).tolist() for reach in (0.9, rng.uniform(1.2, 1.8))]
        cv2.line(canvas, *ends, 255, int(rng.integers(4, 13)))
    return cv2.resize(canvas.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_AREA)


def mixed(alpha: Alpha, noise: float = 0) -> Pixels:
    """Return an orange object on a blue gradient."""
    side = len(alpha)
    ground = np.array([40, 70, 180]) + np.linspace(-25, 25, side)[:, None, None]
    image = alpha[..., None] * np.array([230, 120, 30]) + (1 - alpha[..., None]) * ground
    return np.clip(np.rint(image + np.random.default_rng(0).normal(0, noise, image.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("factor", "noise", "share"), [(4, 0, 0.15), (4, 4, 0.2), (2, 0, 0.3), (6, 0, 0.25)])
def test_hair_is_recovered(factor: int, noise: float, share: float) -> None:
    """Little of the enlargement's error remains where object and ground have different colours."""
    truth = strands(480)
    base = cv2.resize(truth, (480 // factor, 480 // factor), interpolation=cv2.INTER_AREA)
    enlarged, alpha = refined(mixed(truth, noise), base)
    assert np.square(alpha - truth).mean() < share * np.square(enlarged - truth).mean()


def test_without_contrast_it_is_no_worse_than_the_enlargement() -> None:
    truth = strands(480)
    base = cv2.resize(truth, (120, 120), interpolation=cv2.INTER_AREA)
    image = np.full((480, 480, 3), 128, np.uint8)
    enlarged, alpha = refined(image, base)
    assert np.square(alpha - truth).mean() < 1.01 * np.square(enlarged - truth).mean()


def test_alpha_that_is_linear_in_colour_is_fitted_exactly() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3), np.uint8)
    frame = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    p = 0.2 + frame[0] * 0.3 + frame[1] * 0.1 - frame[2] * 0.15
    coefficients = fit(p, frame, window_means(40, 2, CPU), window_means(50, 2, CPU), 1e-7)
    expected = torch.tensor([0.3, 0.1, -0.15, 0.2])[:, None, None].expand(4, 40, 50)
    torch.testing.assert_close(coefficients[:4], expected, atol=2e-3, rtol=0)
    assert coefficients[4].max() < 0.1


@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_solve_is_accurate(seed: int, alike: float) -> None:
    """Correlated colours, such as greys, make the matrix nearly singular; EPS keeps it solvable."""
    rng = np.random.default_rng(seed)
    samples = rng.random((25, 3)) * 10**-alike + rng.random((25, 1))
    matrix = np.cov(samples.T, bias=True) + EPS * np.eye(3)
    y = rng.normal(size=3)
    entries = [torch.tensor([[matrix[i, j]]], dtype=torch.float32) for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    solution = solve(*entries, torch.tensor(y, dtype=torch.float32).reshape(3, 1, 1))
    residual = matrix @ np.array([float(one) for one in solution]) - y
    assert np.abs(residual).max() < 2e-3


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_window_means_use_the_existing_neighbours(radius: int) -> None:
    planes = torch.rand(2, 9, 14)
    means = apply_both(window_means(9, radius, CPU), planes, window_means(14, radius, CPU))
    for y, x in ((0, 0), (4, 7), (8, 13), (1, 12)):
        near = planes[:, max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        torch.testing.assert_close(means[:, y, x], near.mean((1, 2)))


def test_a_flat_image_gets_window_means() -> None:
    level = 77
    frame = torch.full((3, 20, 20), level / 255)
    p = torch.rand(20, 20)
    rows = window_means(20, 2, CPU)
    *a, b, unexplained = fit(p, frame, rows, rows, EPS)
    assert unexplained.min() > 0.99
    assert max(float(one.abs().max()) for one in a) < 1e-2
    torch.testing.assert_close(b + sum(one * level / 255 for one in a), apply_both(rows, p[None], rows)[0], atol=1e-3, rtol=0)
