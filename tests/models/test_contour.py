from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.contour import NAMES, measure_contour

SIDE = 320


def disc(radius: float = 90, soft: float = 4) -> torch.Tensor:
    """(1, SIDE, SIDE): p of a disc with an edge so wide."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    return torch.from_numpy(np.clip((radius - np.hypot(x, y)) / soft + 0.5, 0, 1).astype(np.float32))[None]


def photo(p: torch.Tensor, noise: float = 2) -> np.ndarray:
    """(1, SIDE, SIDE, 3) uint8: the disc in red on grey."""
    alpha = p[0].numpy()[..., None]
    rgb = alpha * [200, 40, 40] + (1 - alpha) * [128, 128, 128] + np.random.default_rng(0).normal(0, noise, (SIDE, SIDE, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)[None]


def found(p: torch.Tensor, frames: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, measure_contour(p, frames)[0].tolist(), strict=True))


def test_a_good_mask() -> None:
    p = disc()
    signals = found(p, photo(p))
    assert signals["stray"] == pytest.approx(0, abs=1e-3)
    assert signals["gaps"] == pytest.approx(0, abs=1e-3)
    assert signals["slope"] > 0.4
    assert signals["support"] > 2
    assert 0.8 < signals["contrast"] / (np.linalg.norm([72, 88, 88]) / 255) < 1


def test_haze_beside_the_object_and_doubt_inside_it() -> None:
    p, frames = disc(), photo(disc())
    hazy, doubtful = p.clone(), p.clone()
    hazy[0, :40, :] = 0.3
    doubtful[0, 140:180, 140:180] = 0.6
    assert found(hazy, frames)["stray"] == pytest.approx(0.3 * 40 * SIDE / float((p > 0.5).sum()), rel=0.05)
    assert found(hazy, frames)["gaps"] == pytest.approx(found(p, frames)["gaps"], abs=1e-3)
    assert found(doubtful, frames)["gaps"] == pytest.approx(0.4 * 40 * 40 / float((p > 0.5).sum()), rel=0.05)
    assert found(doubtful, frames)["stray"] == pytest.approx(0, abs=1e-3)


def test_a_soft_edge_is_neither() -> None:
    assert found(disc(soft=8), photo(disc()))["stray"] < 0.001
    assert found(disc(soft=8), photo(disc()))["slope"] < found(disc(soft=2), photo(disc()))["slope"]


def test_a_contour_where_the_photo_has_no_edge() -> None:
    p = disc()
    assert found(p.roll(70, 2), photo(p))["support"] < 0.6 * found(p, photo(p))["support"]
    assert found(p.roll(70, 2), photo(p))["contrast"] < 0.6 * found(p, photo(p))["contrast"]


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("side", [64, 320, 512])
def test_maps_without_a_contour(level: float, side: int) -> None:
    p = torch.full((2, side, side), level)
    table = measure_contour(p, np.full((2, side, side, 3), 90, np.uint8))
    assert table.shape == (2, len(NAMES))
    assert torch.isfinite(table).all()
    assert torch.equal(table[0], table[1])
