"""Losses against their definitions."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.losses import EDGE, alpha_loss, overlap, shape_loss


def half() -> torch.Tensor:
    """Left half object: (2, 1, 8, 8)."""
    alpha = torch.zeros(2, 1, 8, 8)
    alpha[..., :4] = 1
    return alpha


def test_what_is_right_and_sure_costs_nothing() -> None:
    alpha, edge = half(), torch.rand(2, 1, 8, 8)
    sure = (alpha * 2 - 1) * 30
    assert shape_loss(sure, alpha, edge, 1, 1) < 1e-6
    assert max(alpha_loss(sure, alpha)) < 1e-6
    assert shape_loss(-sure, alpha, edge, 1, 1) > 30


def test_a_mistake_on_an_edge_costs_more() -> None:
    alpha, logits = half(), (half() * 2 - 1) * 4
    logits[..., 0, 0] = -4
    here, there = torch.zeros_like(alpha), torch.zeros_like(alpha)
    here[..., 0, 0], there[..., 7, 7] = 1, 1
    assert shape_loss(logits, alpha, here, 1, 0) > 3 * shape_loss(logits, alpha, there, 1, 0)


def test_parts_by_hand() -> None:
    alpha, nothing = half(), torch.zeros(2, 1, 8, 8)
    flat = torch.zeros(2, 1, 8, 8)  # p = 1/2 everywhere
    assert shape_loss(flat, alpha, nothing, 1, 0).item() == pytest.approx(0.6931, abs=1e-4)
    both, either = 0.5 * 32, 0.5 * 64 + 32
    assert shape_loss(flat, alpha, nothing, 0, 1).item() == pytest.approx(1 - (both + 1) / (either - both + 1))
    l1, slope = alpha_loss(flat, alpha)
    assert l1.item() == pytest.approx(0.5)
    assert slope.item() == pytest.approx(1 / 7)
    assert EDGE > 0


def test_small_maps_see_the_truths_means() -> None:
    alpha, edge = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    small = [torch.nn.functional.avg_pool2d(plane, 4) for plane in (alpha, edge)]
    logits = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(shape_loss(logits, alpha, edge, 1, 1), shape_loss(logits, *small, 1, 1))


def test_overlap_by_hand() -> None:
    alpha = half()
    found = alpha.clone()
    found[0, ..., 4:6] = 1  # half as much again
    found[1] = 0
    alpha[1] = 0
    assert overlap(found, alpha)[0].tolist() == pytest.approx([0.25, 2 / 3, 0.8])
    assert overlap(found, alpha)[1].tolist() == [0, 1, 1]
