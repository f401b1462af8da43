"""A decision where a model hesitates far from any contour: haze on a wall, a pale middle of an object.

Near a contour alpha may be anything, as hair is. Away from one, what a model trained with cross-entropy gives is a probability
and no opacity: 0.3 where three of ten such places are the object. Its logits are made larger there, so that alpha comes nearer
to 0 or 1 without a jump; which side of a half it is on never changes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.refiners.unknown_region import highest

NEAR = 1 / 64
"""How far from the contour a pixel is near it, as a share of the frame's side, by maximum of rows and columns."""

RAMP_PX = 5
"""Side of the square over which near turns into far."""


def sharpen(logits: Tensor, times: float) -> Tensor:
    """Logits, ``times`` as large where no contour is near.

    Args:
        logits: (N, S, S) float32; 0 is where a mask's contour runs.
        times: 1 leaves them as they are.

    Returns:
        (N, S, S) float32 on the same device, without waiting for it.
    """
    if times == 1:
        return logits
    inside = (logits > 0).float()[:, None]  # (N, 1, S, S)
    reached = highest(torch.cat([inside, 1 - inside], 1), max(1, round(NEAR * logits.shape[-1])))
    near = F.avg_pool2d(reached[:, 0] * reached[:, 1], RAMP_PX, 1, RAMP_PX // 2, count_include_pad=False)  # (N, S, S)
    return logits * (times + (1 - times) * near)
