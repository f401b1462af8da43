"""Sharpen alpha far from contours: remove haze on a wall, or a pale area inside an object.

Near a contour any alpha is plausible, as in hair. Away from one, a model trained with cross-entropy predicts a probability, not
an opacity. Larger logits there bring alpha nearer to 0 or 1 without a jump, and never across 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.refiners.unknown_region import max_filter

CONTOUR_REACH = 1 / 64
"""Distance from the contour that stays unchanged, as a share of the frame's side; the larger of rows and columns counts."""

RAMP_PX = 5
"""Side of the square that blurs the border between near and far."""


def sharpen(logits: Tensor, factor: float | Tensor) -> Tensor:
    """Multiply logits by ``factor`` where no contour is near.

    Args:
        logits: (N, S, S) float32; 0 on a mask's contour.
        factor: 1 returns the logits unchanged.

    Returns:
        (N, S, S) float32 on the same device, without waiting for it.
    """
    inside = (logits > 0).float()[:, None]  # (N, 1, S, S)
    reached = max_filter(torch.cat([inside, 1 - inside], 1), max(1, round(CONTOUR_REACH * logits.shape[-1])))
    near = reached[:, 0] * reached[:, 1]  # (N, S, S)
    for along, margin in (((1, RAMP_PX), (0, RAMP_PX // 2)), ((RAMP_PX, 1), (RAMP_PX // 2, 0))):  # the mean over a square
        near = F.avg_pool2d(near, along, 1, margin, count_include_pad=False)
    return logits * (factor + (1 - factor) * near)
