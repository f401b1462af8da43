"""Where the base model is unsure: the band in which a refiner works, on the model's frame.

After BEN's confidence-guided matting (arXiv 2501.06230): the base's own probabilities say where to look again. BEN's thresholds
and its refiner aren't public; these are ours. What is measured in pixels of the frame grows with the image: two of them are
eight pixels of an image four times as large.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

LOW, HIGH = 0.04, 0.96
"""Probabilities between these are unsure: neither object nor background."""

STEP = 0.5
"""So much between neighbours is an edge, however sure both sides are: enlarged, it would be a ramp."""

GROW_PX = 2
"""What lies so near to an unsure pixel belongs to the band, in pixels of the frame."""

SPECK_PX = 2
"""Unsure pixels of which no more lie together in 3×3 are noise."""

MOSTLY = 2.0
"""With more unsure pixels than this for every pixel of the object, the base doesn't know the object."""

NEAR_PX = 6
"""Of such an object only what lies so near to its contour is refined, in pixels of the frame."""


def find_unknown(p: Tensor) -> Tensor:
    """How much a refiner's answer counts: 0 where the base is sure, 1 in the band, with a ramp of one pixel at its border.

    Args:
        p: (N, S, S) float32 in [0, 1], as the base gave it: 8 bits would hide what is unsure.

    Returns:
        (N, S, S) float32. Never is anything but 0 further than ``GROW_PX`` from an unsure pixel.
    """
    planes = p[:, None]  # (N, 1, S, S)
    edge = highest(planes, 1) - lowest(planes, 1) > STEP
    unsure = ((planes > LOW) & (planes < HIGH) | edge).float()
    together = F.avg_pool2d(unsure, 3, 1, 1) * 9  # what lies outside counts as sure
    unsure = unsure * (together > SPECK_PX + 0.5)
    grown = highest(unsure, GROW_PX)
    inside = planes > 0.5
    contour = highest(inside.float(), NEAR_PX) - lowest(inside.float(), NEAR_PX)
    lost = unsure_share(p)[:, None, None, None] > MOSTLY
    grown = torch.where(lost, grown * contour, grown)
    return (F.avg_pool2d(grown, 3, 1, 1, count_include_pad=False) * grown)[:, 0]


def unsure_share(p: Tensor) -> Tensor:
    """Unsure pixels for every pixel of the object (of which there are at least a hundredth of the frame): (N, S, S) to (N,).

    Above ``MOSTLY`` the band is limited, and the quality names ``uncertain_share`` as a reason.
    """
    unsure = ((p > LOW) & (p < HIGH)).float().mean((1, 2))
    return unsure / (p > 0.5).float().mean((1, 2)).clamp_min(0.01)


def highest(planes: Tensor, reach: int) -> Tensor:
    """The maximum of every pixel's square of 2·reach + 1, one axis after the other: (N, 1, S, S) to the same.

    By maxima of what is shifted, each twice as wide as the one before: on a CPU ``max_pool2d`` takes 30 times as long.
    """
    side = 2 * reach + 1
    for axis, margins in ((3, (reach, reach)), (2, (0, 0, reach, reach))):
        planes = F.pad(planes, margins, value=-torch.inf)
        covered = 1
        while covered < side:
            shift = min(covered, side - covered)
            left = planes.shape[axis] - shift
            planes = torch.maximum(planes.narrow(axis, 0, left), planes.narrow(axis, shift, left))
            covered += shift
    return planes


def lowest(planes: Tensor, reach: int) -> Tensor:
    """The minimum, likewise."""
    return -highest(-planes, reach)
