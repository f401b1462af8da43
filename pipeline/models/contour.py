"""What a model says near the contour of its mask and away from it, and what the photo says there, on a reduced map.

Hair and glass are honestly unsure, and are near a contour or all of an object. A haze beside the object, a hole of doubt in it
and a contour where the photo has no edge are what bad masks look like (uncertainty summed by place rather than over the whole:
arXiv 2603.29941).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import Frames
from pipeline.models.refiners.unknown_region import highest

NAMES = ("stray", "gaps", "slope", "support", "contrast")

MAP_PX = 80
"""About the reduced map's side."""

NEAR = 0.021
"""What lies so near to the contour may be unsure, as a share of the map's side: 1.5 % of its diagonal."""

LEAST = 0.0025
"""Of the map's pixels an object counts as having at least so many, where something is given as a share of it."""

TEXTURE = 0.02
"""Added to the photo's mean gradient: the edges of a plain picture are no stronger than its noise allows."""


def measure_contour(p: Tensor, frames: Frames) -> Tensor:
    """A row of ``NAMES`` for each item, on p's device, without waiting for it; formulas in ``pipeline.schema.SIGNALS``.

    Args:
        p: (N, S, S) float32 in [0, 1].
        frames: (N, S, S, 3) uint8, what the model saw.

    Returns:
        (N, len(NAMES)) float32.
    """
    step = max(1, p.shape[-1] // MAP_PX)
    reduced = F.avg_pool2d(p[:, None], step)  # (N, 1, s, s)
    middle = step // 2  # of its pixels one is enough of the photo
    photo = torch.as_tensor(frames)[:, middle::step, middle::step][:, : reduced.shape[2], : reduced.shape[3]]
    photo = photo.to(p.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255  # (N, 3, s, s)
    inside = (reduced > 0.5).float()
    reach = max(1, round(NEAR * reduced.shape[-1]))
    slopes = _gradient(torch.cat([photo, reduced], 1))
    edges = slopes[:, :3].amax(1, keepdim=True)
    near = highest(torch.cat([inside, 1 - inside, edges], 1), 1)  # (N, 3, s, s)
    contour, support = near[:, :1] * near[:, 1:2], near[:, 2:]
    far = highest(near[:, :2], reach - 1)
    outer, inner = far[:, :1] * (1 - inside), far[:, 1:] * inside
    area = inside.sum((1, 2, 3)).clamp_min(LEAST * inside[0].numel())
    stray = _total(reduced, 1 - inside - outer) / area
    gaps = _total(1 - reduced, inside - inner) / area
    support = _mean(support, contour) / (support.mean((1, 2, 3)) + TEXTURE)
    both = torch.cat([outer, inner], 1).flatten(2)  # (N, 2, s·s)
    colours = torch.bmm(photo.flatten(2), both.transpose(1, 2)) / both.sum(2).clamp_min(1)[:, None]  # (N, 3, 2)
    contrast = (colours[:, :, 0] - colours[:, :, 1]).norm(dim=1)
    return torch.stack([stray, gaps, _mean(slopes[:, 3:], contour), support, contrast], 1)


def _gradient(planes: Tensor) -> Tensor:
    """|difference to the right| + |difference below|, (N, C, s, s)."""
    return F.pad(planes.diff(dim=3).abs(), (0, 1)) + F.pad(planes.diff(dim=2).abs(), (0, 0, 0, 1))


def _total(planes: Tensor, where: Tensor) -> Tensor:
    return (planes * where).sum((1, 2, 3))


def _mean(planes: Tensor, where: Tensor) -> Tensor:
    return _total(planes, where) / where.sum((1, 2, 3)).clamp_min(1)
