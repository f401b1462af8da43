"""What the logits say about themselves: the measurements behind the quality score, at the model's resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipeline.models import contour
from pipeline.models.forward import Frames
from pipeline.models.refiners.unknown_region import HIGH, LOW

NAMES = (
    *("soft_dice", "stability", "confidence", "uncertain_share", "area_share"),
    *("border_touch", "border_top", "border_bottom", "border_left", "border_right"),
    *("box_agreement", "box_outside", "box_fill", "span", "finite"),
    *contour.NAMES,
    *("refined", "flip_dice", "expected_dice"),
)
COARSE_PX = 256
"""Side of the small mask in which connected parts are counted."""


@torch.inference_mode()
def measure(
    logits: torch.Tensor,
    p: torch.Tensor,
    boxes: torch.Tensor | None,
    frames: Frames,
    mirrored: torch.Tensor | None = None,
    changes: Sequence[torch.Tensor | None] = (),
    estimate: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals of a batch, made on the device without waiting for it.

    Args:
        logits: (N, S, S) float32 on the model's device.
        p: their sigmoid.
        boxes: (N, 4) float32 beside them, the prompt's box in pixels of the frame, NaN where there is none; None for none at
            all, which is quicker.
        frames: (N, S, S, 3) uint8, what the model saw.
        mirrored: (N, S, S), its logits of the mirrored frames.
        changes: what a refiner did to each, as ``Refinement.change`` has it; empty without one.
        estimate: (N,), what ``estimator.expected_dice`` makes of them.

    Returns:
        On the same device a row of ``NAMES`` for each item (N, len(NAMES)) float32 (formulas and ranges:
        ``pipeline.schema.SIGNALS``; ``span`` is max(p) - min(p), ``finite`` is 1 where all logits are, and NaN what there
        is nothing to make of, as without a box), and the masks p > 0.5 at about ``COARSE_PX``: (N, s, s) uint8, 0 or 1.
    """
    side = logits.shape[-1]
    ends = torch.stack([logits.amin((1, 2)), logits.amax((1, 2))])  # NaN where one is among them
    finite = ends.isfinite().all(0)
    inside = logits > 0
    y = inside.float()
    area = y.sum((1, 2))
    total, within = p.sum((1, 2)), (p * y).sum((1, 2))
    soft_dice = 2 * within / (total + area).clamp_min(1e-6)
    stability = (logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2)).clamp_min(1)
    uncertain = ((p - (LOW + HIGH) / 2).abs() < (HIGH - LOW) / 2).sum((1, 2)) / side**2
    confidence = (2 * within - total - area) / side**2 + 1  # the mean of max(p, 1 - p)
    lines = torch.stack([y[:, 0], y[:, -1], y[:, :, 0], y[:, :, -1]], 1)  # (N, 4, S)
    sides = lines.mean(2)
    corners = y[:, :: side - 1, :: side - 1].sum((1, 2))  # each is on two of the lines
    rim = (side * sides.sum(1) - corners) / (4 * side - 4)
    span = torch.nan_to_num(ends).sigmoid().diff(dim=0)[0]
    about_box = logits.new_full((len(logits), 3), torch.nan) if boxes is None else _about_boxes(y, area, boxes)
    about_mask = torch.stack([soft_dice, stability, confidence, uncertain, area / side**2, rim], 1)
    flip_dice = logits.new_full((len(logits),), torch.nan) if mirrored is None else dice(inside, mirrored.flip(2) > 0)
    nothing = logits.new_full((), torch.nan)
    refined = [nothing if change is None else change for change in changes] or [nothing] * len(logits)
    expected = nothing.expand(len(logits)) if estimate is None else estimate
    sure, told = torch.stack([span, finite.float()], 1), torch.stack([torch.stack(refined), flip_dice, expected], 1)
    table = torch.cat([about_mask, sides, about_box, sure, contour.measure_contour(p, frames), told], 1)
    step = max(1, side // COARSE_PX)
    return table, inside[:, ::step, ::step].to(torch.uint8)


def named(table: npt.NDArray[np.float32]) -> list[dict[str, float]]:
    """For each item a value for every name in ``NAMES``."""
    return [dict(zip(NAMES, row, strict=True)) for row in table.tolist()]


def _about_boxes(y: torch.Tensor, area: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Agreement, share outside and fill (N, 3) of masks (N, S, S) with such an area (N,)."""
    in_box, box_area = in_boxes(y, boxes)
    shares = 1 - in_box / area.clamp_min(1), in_box / box_area.clamp_min(1)
    return torch.stack([box_iou(bounds(y), boxes), *shares], 1)


def bounds(y: torch.Tensor) -> torch.Tensor:
    """Bounding boxes of masks (N, S, S) of 0 and 1: (N, 4) float32 x0, y0, x1, y1, end-exclusive; zeros where empty."""
    side = y.shape[-1]
    sides = []
    for hit in (y.amax(1), y.amax(2)):  # by column, by row
        first = hit.argmax(1)
        last = side - hit.flip(1).argmax(1)
        some = hit.amax(1)
        sides.append((first * some, last * some))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], 1)


def dice(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """2·|a ∩ b| / (|a| + |b|) of boolean masks (N, S, S), 1 where both are empty: (N,)."""
    return (2 * (a & b).sum((1, 2)) + 1e-6) / (a.sum((1, 2)) + b.sum((1, 2)) + 1e-6)


def in_boxes(y: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of masks (N, S, S) whose centres lie in boxes (N, 4), and all such pixels: (N,) each, NaN where a box is NaN."""
    centres = y.new_ones(y.shape[-1]).cumsum(0) - 0.5  # not counted on the host
    across, down = (((centres >= boxes[:, at, None]) & (centres < boxes[:, at + 2, None])).float() for at in (0, 1))
    nothing = 0 * boxes.sum(1)  # 0, or NaN
    covered = (torch.bmm(y, across[:, :, None])[:, :, 0] * down).sum(1)
    return covered + nothing, down.sum(1) * across.sum(1) + nothing


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of two lists of boxes (N, 4), pair by pair: (N,) in [0, 1], NaN where a box is NaN."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return overlap / union.clamp_min(1e-6)
