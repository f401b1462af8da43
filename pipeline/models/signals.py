"""What the logits say about themselves: the measurements behind the quality score, at the model's resolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

NAMES = ("soft_dice", "stability", "uncertain_share", "area_share", "border_touch", "box_agreement", "span", "finite")
COARSE_PX = 256
"""Side of the small mask in which connected parts are counted."""

UNCERTAIN = (0.04, 0.96)
"""Probabilities between these are neither object nor background."""


def measure(logits: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals of a batch, made on the device without waiting for it.

    Args:
        logits: (N, S, S) float32 on the model's device.
        boxes: (N, 4) float32 beside them, the prompt's box in pixels of the frame, NaN where there is none.

    Returns:
        On the same device a row of ``NAMES`` for each item (N, len(NAMES)) float32 (formulas and ranges:
        ``pipeline.schema.SIGNALS``; ``span`` is max(p) - min(p), ``finite`` is 1 where all logits are, ``box_agreement`` is
        NaN without a box), and the masks p > 0.5 at about ``COARSE_PX``: (N, s, s) uint8, 0 or 1.
    """
    side = logits.shape[-1]
    finite = torch.isfinite(logits).flatten(1).all(1)
    logits = torch.nan_to_num(logits)
    p = logits.sigmoid()
    inside = logits > 0
    y = inside.float()
    area = y.sum((1, 2))
    soft_dice = 2 * (p * y).sum((1, 2)) / (p.sum((1, 2)) + area).clamp_min(1e-6)
    stability = (logits > 1).sum((1, 2)) / (logits > -1).sum((1, 2)).clamp_min(1)
    uncertain = ((p > UNCERTAIN[0]) & (p < UNCERTAIN[1])).float().mean((1, 2))
    rim = torch.cat([y[:, 0], y[:, -1], y[:, 1:-1, 0], y[:, 1:-1, -1]], 1).mean(1)
    span = p.amax((1, 2)) - p.amin((1, 2))
    agreement = box_iou(bounds(inside), boxes)
    table = torch.stack([soft_dice, stability, uncertain, area / side**2, rim, agreement, span, finite.float()], 1)
    step = max(1, side // COARSE_PX)
    return table, inside[:, ::step, ::step].to(torch.uint8)


def named(table: npt.NDArray[np.float32]) -> list[dict[str, float]]:
    """For each item a value for every name in ``NAMES``."""
    return [dict(zip(NAMES, row, strict=True)) for row in table.tolist()]


def bounds(inside: torch.Tensor) -> torch.Tensor:
    """Bounding boxes of boolean masks (N, S, S): (N, 4) float32 x0, y0, x1, y1, end-exclusive; zeros where empty."""
    side = inside.shape[-1]
    sides = []
    for hit in (inside.any(1), inside.any(2)):  # by column, by row
        first = hit.float().argmax(1)
        last = side - hit.flip(1).float().argmax(1)
        some = hit.any(1)
        sides.append((first * some, last * some))
    (x0, x1), (y0, y1) = sides
    return torch.stack([x0, y0, x1, y1], 1).float()


def box_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of two lists of boxes (N, 4), pair by pair: (N,) in [0, 1], NaN where a box is NaN."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - overlap
    return overlap / union.clamp_min(1e-6)
