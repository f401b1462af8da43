from __future__ import annotations

import numpy as np
import pytest
import torch

import pipeline.models.redraw
from pipeline.models.cgm import HALO_PX, STEP_PX, Cgm, ConfidenceGuided, inputs
from pipeline.models.guided import Guided
from pipeline.models.redraw import redraws


def lively(seed: int = 0) -> Cgm:
    """With a head that says something."""
    torch.manual_seed(seed)
    network = Cgm().eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    return network


def test_it_is_small() -> None:
    assert sum(value.numel() for value in Cgm().parameters()) <= 2_000_000


def test_untrained_it_adds_nothing() -> None:
    assert Cgm()(torch.rand(2, 7, 32, 48)).abs().max() == 0


def test_a_batch_is_its_items() -> None:
    network, seen = lively(), torch.rand(3, 7, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(seen), torch.cat([network(one[None]) for one in seen]), atol=1e-5, rtol=0)


def test_beyond_its_halo_it_sees_next_to_nothing() -> None:
    """So tiles leave no trace: a pixel's answer changes little with what lies further away."""
    network = lively()
    seen = torch.rand(1, 7, 256, 256)
    other = seen.clone()
    other[..., : 128 - HALO_PX - STEP_PX, :] = torch.rand(1, 7, 128 - HALO_PX - STEP_PX, 256)
    with torch.inference_mode():
        change = (network(seen) - network(other)).abs()[:, 128:]
    assert float(change.max()) < 1e-3


def test_what_it_sees() -> None:
    image, p, weight, guided = torch.rand(2, 3, 16, 16), torch.rand(2, 16, 16), torch.rand(2, 16, 16), torch.rand(2, 16, 16)
    seen = inputs(image, p, weight, guided, torch.tensor([2.0, 8.0]))
    assert seen.shape == (2, 7, 16, 16)
    np.testing.assert_allclose(seen[:, 6].mean((1, 2)).numpy(), [1 / 3, 1], atol=1e-6)
    assert torch.equal(seen[:, 5], guided)


@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_the_smallest_tiles(size: tuple[int, int]) -> None:
    assert lively()(torch.rand(1, 7, *size)).shape == (1, *size)


class Whole:
    """All of an image fills the frame, or a part of it."""

    def __init__(self, size: tuple[int, int], region: tuple[int, int, int, int] | None = None) -> None:
        self.size = size
        self.region = self.inside = region or (0, 0, size[1], size[0])


@pytest.mark.parametrize("region", [None, (13, 21, 190, 203)])
def test_tiles_leave_no_trace(region: tuple[int, int, int, int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (230, 200, 3), np.uint8)
    p = torch.rand(1, 48, 48)
    frame = rng.integers(0, 256, (1, 48, 48, 3), np.uint8)
    placed = Whole((230, 200), region)
    (redraw,) = redraws(ConfidenceGuided(lively()), [image], [placed], frame, p)  # type: ignore[list-item]
    assert redraw is not None
    x0, y0, x1, y1 = placed.region
    masks = []
    for side in (10_000, 72, 33):
        monkeypatch.setitem(pipeline.models.redraw.TILE_PX, "cpu", side)
        alpha = np.full((y1 - y0, x1 - x0), 0.5, np.float32)
        redraw.whole(alpha)
        masks.append(alpha)
    assert np.abs(masks[0] - 0.5).max() > 0.2
    assert max(np.abs(mask - masks[0]).max() for mask in masks) < 2 / 255


def test_untrained_it_is_guided() -> None:
    rng = np.random.default_rng(0)
    image, frame = rng.integers(0, 256, (150, 190, 3), np.uint8), rng.integers(0, 256, (1, 48, 48, 3), np.uint8)
    p, placed = torch.rand(1, 48, 48), Whole((150, 190))
    found = []
    for refiner in (Guided(), ConfidenceGuided(Cgm())):
        (redraw,) = redraws(refiner, [image], [placed], frame, p)  # type: ignore[list-item]
        assert redraw is not None
        alpha = np.zeros((150, 190), np.float32)
        redraw.whole(alpha)
        found.append(alpha)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
