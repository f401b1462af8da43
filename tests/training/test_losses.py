"""Losses against their definitions."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.losses import alpha_loss, overlap, shape_loss


def half() -> torch.Tensor:
    """Return alpha (2, 1, 8, 8) whose left half is object."""
    alpha = torch.zeros(2, 1, 8, 8)
    alpha[..., :4] = 1
    return alpha


def test_a_perfect_map_has_no_loss() -> None:
    alpha, edge = half(), torch.rand(2, 1, 8, 8)
    perfect = (alpha * 2 - 1) * 30
    assert shape_loss(perfect, alpha, edge, 1, 1) < 1e-6
    assert max(alpha_loss(perfect, alpha)) < 1e-6
    assert shape_loss(-perfect, alpha, edge, 1, 1) > 30


def test_an_error_on_an_edge_costs_more() -> None:
    alpha, logits = half(), (half() * 2 - 1) * 4
    logits[..., 0, 0] = -4
    here, elsewhere = torch.zeros_like(alpha), torch.zeros_like(alpha)
    here[..., 0, 0], elsewhere[..., 7, 7] = 1, 1
    assert shape_loss(logits, alpha, here, 1, 0) > 3 * shape_loss(logits, alpha, elsewhere, 1, 0)


def test_each_loss_equals_its_formula() -> None:
    alpha, no_edge = half(), torch.zeros(2, 1, 8, 8)
    flat = torch.zeros(2, 1, 8, 8)  # p = 1/2 everywhere
    assert shape_loss(flat, alpha, no_edge, 1, 0).item() == pytest.approx(0.6931, abs=1e-4)
    intersection, total = 0.5 * 32, 0.5 * 64 + 32
    soft_iou = (intersection + 1) / (total - intersection + 1)
    assert shape_loss(flat, alpha, no_edge, 0, 1).item() == pytest.approx(1 - soft_iou)
    l1, slope = alpha_loss(flat, alpha)
    assert l1.item() == pytest.approx(0.5)
    assert slope.item() == pytest.approx(1 / 7)


def test_small_maps_are_compared_with_the_mean_of_the_ground_truth() -> None:
    alpha, edge = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    small = [torch.nn.functional.avg_pool2d(plane, 4) for plane in (alpha, edge)]
    logits = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(shape_loss(logits, alpha, edge, 1, 1), shape_loss(logits, *small, 1, 1))


def test_overlap_equals_its_formula() -> None:
    alpha = half()
    predicted = alpha.clone()
    predicted[0, ..., 4:6] = 1  # half as much again
    predicted[1] = alpha[1] = 0
    assert overlap(predicted, alpha)[0].tolist() == pytest.approx([0.25, 2 / 3, 0.8])
    assert overlap(predicted, alpha)[1].tolist() == [0, 1, 1]
