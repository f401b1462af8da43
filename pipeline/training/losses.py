"""Losses of a predicted alpha.

Cross-entropy and soft intersection over union, both with more weight at edges, are those of F³Net (arXiv 1911.11445), which
MVANet was trained with (arXiv 2404.07445). The differences of alpha and of its gradients are matting's (arXiv 1703.03872).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

EDGE_WEIGHT = 5.0
"""Additional weight of a pixel on an edge, at most."""


def shape_loss(logits: Tensor, alpha: Tensor, edge: Tensor, bce: float, iou: float) -> Tensor:
    """Return weighted cross-entropy plus weighted soft IoU, mean over a batch; 0 for a perfect binary map.

    Args:
        logits: (N, 1, h, w).
        alpha: (N, 1, H, W) in [0, 1]; averaged to the logits' size if that is smaller.
        edge: (N, 1, H, W) in [0, 1], likewise.
        bce: Weight of the cross-entropy.
        iou: Weight of the soft IoU.
    """
    logits = logits.float()
    alpha, edge = (_reduce(plane, logits) for plane in (alpha, edge))
    weight = 1 + EDGE_WEIGHT * edge
    entropy = F.binary_cross_entropy_with_logits(logits, alpha, reduction="none")
    entropy = (weight * entropy).sum((1, 2, 3)) / weight.sum((1, 2, 3))  # (N,)
    p = logits.sigmoid()
    intersection, total = (weight * p * alpha).sum((1, 2, 3)), (weight * (p + alpha)).sum((1, 2, 3))
    return (bce * entropy + iou * (1 - (intersection + 1) / (total - intersection + 1))).mean()


def alpha_loss(logits: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean absolute difference of alpha, and that of its gradients to the right and downwards; scalars."""
    off = logits.float().sigmoid() - alpha
    return off.abs().mean(), off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()


def _reduce(plane: Tensor, like: Tensor) -> Tensor:
    factor = plane.shape[-1] // like.shape[-1]
    return plane if factor == 1 else F.avg_pool2d(plane, factor)


def overlap(p: Tensor, alpha: Tensor) -> Tensor:
    """Return MAE, IoU and Dice of each map, (N, 3). IoU and Dice are of p > 0.5, and 1 where both maps are empty.

    Args:
        p: (N, 1, S, S) in [0, 1].
        alpha: (N, 1, S, S) in [0, 1].
    """
    predicted, truth = p > 0.5, alpha > 0.5
    intersection = (predicted & truth).sum((1, 2, 3)).float()
    union = (predicted | truth).sum((1, 2, 3)).float()
    iou = torch.where(union > 0, intersection / union.clamp_min(1), 1.0)
    return torch.stack([(p - alpha).abs().mean((1, 2, 3)), iou, 2 * iou / (1 + iou)], 1)
