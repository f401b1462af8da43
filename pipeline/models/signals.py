"""The measurements behind the quality score, from the model's logits at its own resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models import contour
from pipeline.models.forward import Frames
from pipeline.models.refiners.unknown_region import HIGH, LOW

COARSE_PX = 256
"""Approximate side of the small mask in which connected components are counted."""


@torch.inference_mode()
def measure_signals(
    logits: Tensor,
    p: Tensor,
    boxes: Tensor | None,
    frames: Frames,
    flip_dice: Tensor | None = None,
    changes: Sequence[Tensor | None] = (),
    expected_dice: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the signals of a batch on its device, without waiting for it.

    Args:
        logits: (N, S, S) float32 on the model's device.
        p: Their sigmoid.
        boxes: (N, 4) float32 on the same device: the prompts' boxes in pixels of the frame, NaN for an item without one. None
            (no item has a box) is faster.
        frames: (N, S, S, 3) uint8, the model's input.
        flip_dice: (N,), the Dice of the masks of frame and mirrored frame.
        changes: ``Refinement.change`` of each item; empty without a refiner.
        expected_dice: (N,), from ``estimator.expected_dice``.

    Returns:
        A row of ``signal_names.NAMES`` per item, (N, len(NAMES)) float32, and the masks p > 0.5 at about ``COARSE_PX``,
        (N, s, s) uint8 of 0 and 1. Formulas and ranges: ``pipeline.schema.SIGNALS``; ``span`` is max(p) - min(p), ``finite``
        is 1 if all logits are finite. A signal without its input is NaN, as those of the box without a box.
    """
    side = logits.shape[-1]
    finite = logits.isfinite().flatten(1).all(1)  # in ONNX Runtime, minima and maxima ignore NaN
    extremes = torch.stack([logits.amin((1, 2)), logits.amax((1, 2))])
    inside = logits > 0
    y = inside.float()
    area = y.sum((1, 2))
    # Row by row: ONNX Runtime's sum of a complete map in float32 would be off by 2e-5.
    total, within = p.sum(2).sum(1), (p * y).sum(2).sum(1)
    soft_dice = 2 * within / (total + area).clamp_min(1e-6)
    stability = (logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2)).clamp_min(1)
    uncertain = ((p - (LOW + HIGH) / 2).abs() < (HIGH - LOW) / 2).sum((1, 2)) / side**2
    confidence = (2 * within - total - area) / side**2 + 1  # the mean of max(p, 1 - p)
    borders = torch.stack([y[:, 0], y[:, -1], y[:, :, 0], y[:, :, -1]], 1)  # (N, 4, S)
    border_shares = borders.mean(2)
    corners = y[:, :: side - 1, :: side - 1].sum((1, 2))  # each belongs to two borders
    border_touch = (side * border_shares.sum(1) - corners) / (4 * side - 4)
    span = torch.nan_to_num(extremes).sigmoid().diff(dim=0)[0]
    of_box = logits.new_full((len(logits), 3), torch.nan) if boxes is None else _box_signals(y, area, boxes)
    of_mask = torch.stack([soft_dice, stability, confidence, uncertain, area / side**2, border_touch], 1)
    nan = logits.new_full((), torch.nan)
    refined = [nan if change is None else change for change in changes] or [nan] * len(logits)
    expected = nan.expand(len(logits)) if expected_dice is None else expected_dice
    of_map = torch.stack([span, finite.float()], 1)
    flipped = nan.expand(len(logits)) if flip_dice is None else flip_dice
    optional = torch.stack([torch.stack(refined), flipped, expected], 1)
    table = torch.cat([of_mask, border_shares, of_box, of_map, contour.measure_contour(p, frames), optional], 1)
    step = max(1, side // COARSE_PX)
    return table, inside[:, ::step, ::step].to(torch.uint8)


def _box_signals(y: Tensor, area: Tensor, boxes: Tensor) -> Tensor:
    """Return agreement, share outside and fill (N, 3) of masks (N, S, S) with these areas (N,)."""
    in_box, box_area = count_in_boxes(y, boxes)
    shares = 1 - in_box / area.clamp_min(1), in_box / box_area.clamp_min(1)
    return torch.stack([box_iou(bounding_boxes(y), boxes), *shares], 1)


def bounding_boxes(y: Tensor) -> Tensor:
    """Return the boxes (N, 4) float32 x0, y0, x1, y1, end-exclusive, of masks (N, S, S) of 0 and 1; zeros for an empty mask."""
    side = y.shape[-1]
    ends = []
    for hit in (y.amax(1), y.amax(2)):  # by column, by row
        first = hit.argmax(1)
        last = side - hit.flip(1).argmax(1)
        any_hit = hit.amax(1)
        ends.append((first * any_hit, last * any_hit))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 1)


def dice(a: Tensor, b: Tensor) -> Tensor:
    """Return 2·|a ∩ b| / (|a| + |b|) of boolean masks (N, S, S), 1 if both are empty: (N,)."""
    return (2 * (a & b).sum((1, 2)) + 1e-6) / (a.sum((1, 2)) + b.sum((1, 2)) + 1e-6)


def count_in_boxes(y: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Count the mask pixels (N, S, S) with centres in boxes (N, 4), and all pixels there: (N,) each, NaN for a NaN box."""
    centres = y.new_ones(y.shape[-1]).cumsum(0) - 0.5  # arange would copy from the host
    across, down = (((centres >= boxes[:, at, None]) & (centres < boxes[:, at + 2, None])).float() for at in (0, 1))
    zero_or_nan = 0 * boxes.sum(1)
    covered = (torch.bmm(y, across[:, :, None])[:, :, 0] * down).sum(1)
    return covered + zero_or_nan, down.sum(1) * across.sum(1) + zero_or_nan


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of boxes (N, 4) pair by pair, (N,) in [0, 1]; NaN for a NaN box."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return overlap / union.clamp_min(1e-6)
