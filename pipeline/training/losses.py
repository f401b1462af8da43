"""What a map is told about its mistakes.

Cross-entropy and soft intersection over union, both with more weight at edges, are those of F³Net (arXiv 1911.11445), which
MVANet was trained with (arXiv 2404.07445); the differences of alpha and of its slopes are matting's (arXiv 1703.03872).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

EDGE = 5.0
"""A pixel on an edge counts so many times more, at most."""


def shape_loss(logits: Tensor, alpha: Tensor, edge: Tensor, bce: float, iou: float) -> Tensor:
    """Weighted cross-entropy and weighted soft IoU, mean over a batch; 0 for what is perfect and binary.

    Args:
        logits: (N, 1, h, w).
        alpha: (N, 1, H, W) in [0, 1]; averaged to the logits' size where that is smaller.
        edge: (N, 1, H, W) in [0, 1], likewise.
    """
    logits = logits.float()
    alpha, edge = (_reduced(plane, logits) for plane in (alpha, edge))
    weight = 1 + EDGE * edge
    entropy = F.binary_cross_entropy_with_logits(logits, alpha, reduction="none")
    entropy = (weight * entropy).sum((1, 2, 3)) / weight.sum((1, 2, 3))  # (N,)
    p = logits.sigmoid()
    both, either = (weight * p * alpha).sum((1, 2, 3)), (weight * (p + alpha)).sum((1, 2, 3))
    return (bce * entropy + iou * (1 - (both + 1) / (either - both + 1))).mean()


def alpha_loss(logits: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Mean difference of alpha, and of its slopes to the right and downwards: scalars."""
    off = logits.float().sigmoid() - alpha
    return off.abs().mean(), off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()


def _reduced(plane: Tensor, like: Tensor) -> Tensor:
    by = plane.shape[-1] // like.shape[-1]
    return plane if by == 1 else F.avg_pool2d(plane, by)


def overlap(p: Tensor, alpha: Tensor) -> Tensor:
    """Of each map: MAE, and of both cut at one half IoU and Dice, 1 where both are empty: (N, 3).

    Args:
        p, alpha: (N, 1, S, S) in [0, 1].
    """
    found, truth = p > 0.5, alpha > 0.5
    both = (found & truth).sum((1, 2, 3)).float()
    either = (found | truth).sum((1, 2, 3)).float()
    iou = torch.where(either > 0, both / either.clamp_min(1), 1.0)
    return torch.stack([(p - alpha).abs().mean((1, 2, 3)), iou, 2 * iou / (1 + iou)], 1)
