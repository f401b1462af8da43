from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.contour import measure_contour
from pipeline.models.signal_names import CONTOUR_NAMES as NAMES

SIDE = 320


def disc(radius: float = 90, soft: float = 4) -> torch.Tensor:
    """Return p of a disc with an edge of ``soft`` pixels, (1, SIDE, SIDE)."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    return torch.from_numpy(np.clip((radius - np.hypot(x, y)) / soft + 0.5, 0, 1).astype(np.float32))[None]


def photo(p: torch.Tensor, noise: float = 2) -> np.ndarray:
    """Return a photo of the disc in red on grey, (1, SIDE, SIDE, 3) uint8."""
    alpha = p[0].numpy()[..., None]
    rgb = alpha * [200, 40, 40] + (1 - alpha) * [128, 128, 128] + np.random.default_rng(0).normal(0, noise, (SIDE, SIDE, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)[None]


def signals_of(p: torch.Tensor, frames: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, measure_contour(p, frames)[0].tolist(), strict=True))


def test_a_good_mask_has_good_signals() -> None:
    p = disc()
    signals = signals_of(p, photo(p))
    assert signals["stray"] == pytest.approx(0, abs=1e-3)
    assert signals["gaps"] == pytest.approx(0, abs=1e-3)
    assert signals["slope"] > 0.4
    assert signals["support"] > 2
    assert 0.8 < signals["contrast"] / (np.linalg.norm([72, 88, 88]) / 255) < 1


def test_haze_is_stray_and_doubt_inside_is_a_gap() -> None:
    p, frames = disc(), photo(disc())
    hazy, doubtful = p.clone(), p.clone()
    hazy[0, :40, :] = 0.3
    doubtful[0, 140:180, 140:180] = 0.6
    assert signals_of(hazy, frames)["stray"] == pytest.approx(0.3 * 40 * SIDE / float((p > 0.5).sum()), rel=0.05)
    assert signals_of(hazy, frames)["gaps"] == pytest.approx(signals_of(p, frames)["gaps"], abs=1e-3)
    assert signals_of(doubtful, frames)["gaps"] == pytest.approx(0.4 * 40 * 40 / float((p > 0.5).sum()), rel=0.05)
    assert signals_of(doubtful, frames)["stray"] == pytest.approx(0, abs=1e-3)


def test_a_soft_edge_is_neither_stray_nor_gap() -> None:
    assert signals_of(disc(soft=8), photo(disc()))["stray"] < 0.001
    assert signals_of(disc(soft=8), photo(disc()))["slope"] < signals_of(disc(soft=2), photo(disc()))["slope"]


def test_a_contour_without_an_edge_in_the_photo_has_no_support() -> None:
    p = disc()
    assert signals_of(p.roll(70, 2), photo(p))["support"] < 0.6 * signals_of(p, photo(p))["support"]
    assert signals_of(p.roll(70, 2), photo(p))["contrast"] < 0.6 * signals_of(p, photo(p))["contrast"]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("side", [64, 320, 512])
def test_maps_without_a_contour_have_finite_signals(level: float, side: int) -> None:
    p = torch.full((2, side, side), level)
    table = measure_contour(p, np.full((2, side, side, 3), 90, np.uint8))
    assert table.shape == (2, len(NAMES))
    assert torch.isfinite(table).all()
    assert torch.equal(table[0], table[1])
