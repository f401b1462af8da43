"""The unknown region of the trimap, on the model's frame: where the base model is unsure and a refiner works.

As in BEN's confidence-guided matting (arXiv 2501.06230) it follows from the base's probabilities. BEN's thresholds are not
public; these are our own. Lengths are in pixels of the frame: two of them are eight pixels of an image four times as large.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

LOW, HIGH = 0.04, 0.96
"""Probabilities between these are unsure: neither background nor object."""

EDGE_STEP = 0.5
"""A larger difference between neighbours is an edge, and unsure even if both sides are sure: enlarged, it would be a ramp."""

DILATE_PX = 2
"""Radius by which unsure pixels are dilated."""

SPECK_PX = 2
"""An unsure pixel with at most so many in its 3×3 neighbourhood, itself included, is noise."""

MAX_UNSURE_SHARE = 2.0
"""Unsure pixels per object pixel, above which the base does not know the object."""

CONTOUR_PX = 6
"""Radius around the contour of such an object outside of which it is not refined."""


def find_unknown(p: Tensor) -> Tensor:
    """Return the weight of a refiner's answer: 0 where the base is sure, 1 in the unknown region, a ramp of one pixel between.

    Args:
        p: (N, S, S) float32 in [0, 1], not rounded to 8 bits, which would hide unsure pixels.

    Returns:
        (N, S, S) float32; 0 everywhere further than ``DILATE_PX`` from an unsure pixel.
    """
    planes = p[:, None]  # (N, 1, S, S)
    edge = max_filter(planes, 1) - min_filter(planes, 1) > EDGE_STEP
    unsure = ((planes > LOW) & (planes < HIGH) | edge).float()
    neighbours = F.avg_pool2d(unsure, 3, 1, 1) * 9  # pixels outside the frame count as sure
    unsure = unsure * (neighbours > SPECK_PX + 0.5)
    dilated = max_filter(unsure, DILATE_PX)
    inside = planes > 0.5
    contour = max_filter(inside.float(), CONTOUR_PX) - min_filter(inside.float(), CONTOUR_PX)
    lost = unsure_share(p)[:, None, None, None] > MAX_UNSURE_SHARE
    dilated = torch.where(lost, dilated * contour, dilated)
    return (F.avg_pool2d(dilated, 3, 1, 1, count_include_pad=False) * dilated)[:, 0]


def unsure_share(p: Tensor) -> Tensor:
    """Return unsure pixels per object pixel, (N, S, S) to (N,); the object counts as at least a hundredth of the frame.

    Above ``MAX_UNSURE_SHARE`` the unknown region is limited, and ``uncertain_share`` lowers the quality.
    """
    unsure = ((p > LOW) & (p < HIGH)).float().mean((1, 2))
    return unsure / (p > 0.5).float().mean((1, 2)).clamp_min(0.01)


def max_filter(planes: Tensor, radius: int) -> Tensor:
    """Return the maximum over squares of side 2·radius + 1, (N, C, S, S) to the same.

    On a CPU, PyTorch's ``max_pool2d`` takes 30 times as long as maxima of shifted maps, twice as wide each time, one axis after
    the other. In ONNX Runtime it takes a tenth of their time.
    """
    side = 2 * radius + 1
    if torch.compiler.is_exporting() or planes.is_cuda:
        return F.max_pool2d(planes, side, 1, radius)
    for axis, margins in ((3, (radius, radius)), (2, (0, 0, radius, radius))):
        planes = F.pad(planes, margins, value=-torch.inf)
        covered = 1
        while covered < side:
            shift = min(covered, side - covered)
            length = planes.shape[axis] - shift
            planes = torch.maximum(planes.narrow(axis, 0, length), planes.narrow(axis, shift, length))
            covered += shift
    return planes


def min_filter(planes: Tensor, radius: int) -> Tensor:
    """Return the minimum over the same squares."""
    return -max_filter(-planes, radius)
