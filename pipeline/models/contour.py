"""Signals from a mask's contour: what the model and the photo show near it and away from it, on a reduced map.

Hair and glass are legitimately uncertain near a contour. Haze beside the object, doubt inside it and a contour where the photo
has no edge are typical of bad masks (spatial aggregation of uncertainty: arXiv 2603.29941).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import Frames
from pipeline.models.refiners.unknown_region import max_filter

MAP_PX = 80
"""Approximate side of the reduced map."""

CONTOUR_REACH = 0.021
"""Distance from the contour within which uncertainty is allowed, as a share of the map's side: 1.5 % of its diagonal."""

MIN_AREA = 0.0025
"""Smallest divisor in place of the object's area, as a share of the map: keeps tiny objects from inflating the signals."""

MIN_GRADIENT = 0.02
"""Added to the photo's mean gradient, so that the noise of a plain picture does not count as edges."""


def measure_contour(p: Tensor, frames: Frames) -> Tensor:
    """Compute ``signal_names.CONTOUR_NAMES`` of each item on p's device, without waiting for it.

    Formulas: ``pipeline.schema.SIGNALS``.

    Args:
        p: (N, S, S) float32 in [0, 1].
        frames: (N, S, S, 3) uint8, the model's input.

    Returns:
        (N, len(CONTOUR_NAMES)) float32.
    """
    step = max(1, p.shape[-1] // MAP_PX)
    reduced = F.avg_pool2d(p[:, None], step)  # (N, 1, s, s)
    centre = step // 2  # one pixel of the photo per cell is enough
    photo = torch.as_tensor(frames)[:, centre::step, centre::step][:, : reduced.shape[2], : reduced.shape[3]]
    photo = photo.to(p.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255  # (N, 3, s, s)
    inside = (reduced > 0.5).float()
    reach = max(1, round(CONTOUR_REACH * reduced.shape[-1]))
    gradients = _gradient(torch.cat([photo, reduced], 1))
    edges = gradients[:, :3].amax(1, keepdim=True)
    near = max_filter(torch.cat([inside, 1 - inside, edges], 1), 1)  # (N, 3, s, s)
    contour, support = near[:, :1] * near[:, 1:2], near[:, 2:]
    wide = max_filter(near[:, :2], reach - 1)
    outer, inner = wide[:, :1] * (1 - inside), wide[:, 1:] * inside
    area = inside.sum((1, 2, 3)).clamp_min(MIN_AREA * inside[0].numel())
    stray = _total(reduced, 1 - inside - outer) / area
    gaps = _total(1 - reduced, inside - inner) / area
    support = _mean(support, contour) / (support.mean(3).mean((1, 2)) + MIN_GRADIENT)
    sides = torch.cat([outer, inner], 1).flatten(2)  # (N, 2, s·s)
    colours = torch.bmm(photo.flatten(2), sides.transpose(1, 2)) / sides.sum(2).clamp_min(1)[:, None]  # (N, 3, 2)
    contrast = (colours[:, :, 0] - colours[:, :, 1]).norm(dim=1)
    return torch.stack([stray, gaps, _mean(gradients[:, 3:], contour), support, contrast], 1)


def _gradient(planes: Tensor) -> Tensor:
    """Return |difference to the right| + |difference below|, (N, C, s, s)."""
    return F.pad(planes.diff(dim=3).abs(), (0, 1)) + F.pad(planes.diff(dim=2).abs(), (0, 0, 0, 1))


def _total(planes: Tensor, where: Tensor) -> Tensor:
    return (planes * where).sum(3).sum((1, 2))  # row by row, as in signals


def _mean(planes: Tensor, where: Tensor) -> Tensor:
    return _total(planes, where) / where.sum((1, 2, 3)).clamp_min(1)
