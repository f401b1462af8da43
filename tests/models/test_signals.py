from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.signal_names import signals_by_name
from pipeline.models.signals import bounding_boxes, box_iou, dice, measure_signals

NO_BOX = np.full((1, 4), np.nan, np.float32)


def measure(logits: torch.Tensor, boxes: np.ndarray) -> tuple[list[dict[str, float]], Any]:
    frames = np.random.default_rng(0).integers(0, 256, (*logits.shape, 3), np.uint8)
    table, coarse = measure_signals(logits, logits.sigmoid(), torch.from_numpy(boxes), frames)
    return signals_by_name(table.numpy()), coarse


def square(side: int = 64, x0: int = 16, y0: int = 8, x1: int = 48, y1: int = 40, logit: float = 10.0) -> torch.Tensor:
    logits = torch.full((1, side, side), -logit)
    logits[:, y0:y1, x0:x1] = logit
    return logits


def test_a_sure_square_has_good_signals() -> None:
    (signals,), coarse = measure(square(), NO_BOX)
    assert signals["soft_dice"] == pytest.approx(1, abs=1e-3)
    assert signals["stability"] == 1
    assert signals["uncertain_share"] == 0
    assert signals["area_share"] == pytest.approx(0.25)
    assert signals["border_touch"] == 0
    assert np.isnan(signals["box_agreement"])
    assert signals["finite"] == 1
    assert coarse.sum() == 32 * 32


def test_formulas_equal_plain_numpy() -> None:
    logits = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(1)) * 3
    boxes = np.array([[4, 4, 40, 44], [0, 0, 48, 48], [np.nan] * 4], np.float32)
    measured, _ = measure(logits, boxes)
    for row, signals in enumerate(measured):
        z = logits[row].numpy().astype(np.float64)
        p, y = 1 / (1 + np.exp(-z)), z > 0
        rim = np.concatenate([y[0], y[-1], y[1:-1, 0], y[1:-1, -1]])
        assert signals["soft_dice"] == pytest.approx(2 * (p * y).sum() / (p.sum() + y.sum()), rel=1e-5)
        assert signals["stability"] == pytest.approx((z > 1).sum() / (z > -1).sum(), rel=1e-5)
        assert signals["uncertain_share"] == pytest.approx(((p > 0.04) & (p < 0.96)).mean(), abs=1e-6)
        assert signals["border_touch"] == pytest.approx(rim.mean(), rel=1e-5)
        assert signals["span"] == pytest.approx(p.max() - p.min(), rel=1e-4)


def test_box_agreement_is_the_iou_of_boxes() -> None:
    (signals,), _ = measure(square(), np.array([[16, 8, 48, 40]], np.float32))
    assert signals["box_agreement"] == pytest.approx(1)
    (signals,), _ = measure(square(), np.array([[16, 8, 32, 40]], np.float32))
    assert signals["box_agreement"] == pytest.approx(0.5)
    (signals,), _ = measure(square(), np.array([[0, 50, 10, 60]], np.float32))
    assert signals["box_agreement"] == 0


def test_bounding_boxes_of_empty_and_full_masks() -> None:
    masks = torch.zeros(2, 8, 8)
    masks[1] = True
    assert bounding_boxes(masks).tolist() == [[0, 0, 0, 0], [0, 0, 8, 8]]
    assert box_iou(bounding_boxes(masks), torch.tensor([[0.0, 0, 8, 8]] * 2)).tolist() == [0, 1]


def test_a_constant_map_has_no_span() -> None:
    (signals,), _ = measure(torch.zeros(1, 32, 32), NO_BOX)
    assert signals["span"] == 0
    assert signals["area_share"] == 0


def test_border_sides_and_box_shares() -> None:
    (signals,), _ = measure(square(64, 0, 8, 32, 64), np.array([[0, 8, 16, 64]], np.float32))
    borders = [signals[f"border_{side}"] for side in ("top", "bottom", "left", "right")]
    assert borders == pytest.approx([0, 0.5, 56 / 64, 0])
    assert signals["box_outside"] == pytest.approx(0.5)
    assert signals["box_fill"] == pytest.approx(1)
    (signals,), _ = measure(square(64, 0, 8, 32, 64), np.array([[0, 0, 64, 64]], np.float32))
    assert signals["box_outside"] == 0
    assert signals["box_fill"] == pytest.approx(32 * 56 / 64**2)
    (signals,), _ = measure(square(), NO_BOX)
    assert all(np.isnan(signals[name]) for name in ("box_agreement", "box_outside", "box_fill", "refined", "flip_dice"))


def test_flip_dice_and_the_refiners_change_are_reported() -> None:
    logits = square(64, 0, 0, 32, 64)
    boxes, frames = torch.from_numpy(NO_BOX), np.zeros((1, 64, 64, 3), np.uint8)
    for other, expected in ((logits, 1.0), (logits.flip(2), 0.0)):
        flip_dice = dice(logits > 0, other > 0)
        table, _ = measure_signals(logits, logits.sigmoid(), boxes, frames, flip_dice, [torch.tensor(0.25)])
        (signals,) = signals_by_name(table.numpy())
        assert signals["flip_dice"] == pytest.approx(expected, abs=1e-3)
        assert signals["refined"] == 0.25


def test_numbers_that_are_not_finite_affect_no_other_item() -> None:
    logits = torch.cat([square(), square()])
    logits[0, 3, 3] = float("nan")
    measured, _ = measure(logits, np.repeat(NO_BOX, 2, 0))
    assert [one["finite"] for one in measured] == [0, 1]
    (alone,), _ = measure(square(), NO_BOX)
    assert measured[1]["soft_dice"] == alone["soft_dice"]


def test_no_boxes_equal_a_batch_of_nan_boxes() -> None:
    logits, frames = square(), np.zeros((1, 64, 64, 3), np.uint8)
    given, none = (measure_signals(logits, logits.sigmoid(), boxes, frames)[0] for boxes in (torch.from_numpy(NO_BOX), None))
    torch.testing.assert_close(given, none, rtol=0, atol=0, equal_nan=True)


def test_border_touch_counts_every_corner_once() -> None:
    logits = square(64, 0, 0, 1, 64)  # all of the left side
    (signals,), _ = measure(logits, NO_BOX)
    assert signals["border_touch"] == pytest.approx(64 / 252)
    assert [signals[f"border_{side}"] for side in ("left", "right", "top", "bottom")] == pytest.approx([1, 0, 1 / 64, 1 / 64])
