"""How far an alpha is from the true one: the four errors of alpha matting.

Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting" (CVPR 2009), with the parameters of their
MATLAB code as the community uses them (Xu et al., "Deep Image Matting", CVPR 2017): Grad with Gaussian derivatives of σ = 1.4,
Conn with θ = 0.15 and thresholds in steps of 0.1. PySODMetrics has none of them for soft alpha.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Alpha

SIGMA = 1.4
STEP = 0.1
FAR = 0.15
"""Distances to the connected part up to this count as none."""

Region = npt.NDArray[np.bool_]


class MattingErrors(NamedTuple):
    """Of one alpha; 0 is the truth."""

    sad: float
    """Σ|Δ| / 1000."""
    mse: float
    """Mean of Δ²."""
    grad: float
    """Σ(|∇α| - |∇truth|)² / 1000."""
    conn: float
    """Σ|φ(α) - φ(truth)| / 1000."""


def matting_errors(alpha: Alpha, truth: Alpha, region: Region | None = None) -> MattingErrors:
    """All four, in a region (H, W) or everywhere: (H, W) float32 in [0, 1] each."""
    where = np.ones(truth.shape, bool) if region is None else region
    off = np.abs(alpha - truth)[where].astype(np.float64)
    slopes = (_slope(alpha) - _slope(truth))[where].astype(np.float64)
    parts = (_connectedness(alpha, truth)[where]).astype(np.float64)
    return MattingErrors(
        off.sum() / 1000, float(np.square(off).mean()) if off.size else 0.0, np.square(slopes).sum() / 1000, parts.sum() / 1000
    )


def _slope(alpha: Alpha) -> Alpha:
    """|∇α| by the derivative of a Gaussian, each filter of unit energy."""
    half = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * 1e-2)))
    place = np.arange(-half, half + 1, dtype=np.float64)
    bell = np.exp(-(place**2) / (2 * SIGMA**2)) / (SIGMA * math.sqrt(2 * math.pi))
    slope = -place * bell / SIGMA**2
    energy = math.sqrt((np.outer(bell, slope) ** 2).sum())
    across = cv2.sepFilter2D(alpha, cv2.CV_32F, slope / energy, bell, borderType=cv2.BORDER_REPLICATE)
    down = cv2.sepFilter2D(alpha, cv2.CV_32F, bell, slope / energy, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(across, down)


def _connectedness(alpha: Alpha, truth: Alpha) -> Alpha:
    """|φ(α) - φ(truth)|: up to which threshold a pixel hangs together with what is firm in both."""
    level = np.full(truth.shape, -1, np.float32)
    for step in range(1, round(1 / STEP) + 1):
        both = ((alpha >= step * STEP) & (truth >= step * STEP)).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(both, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest = labels == 1 + int(areas.argmax()) if len(areas) else np.zeros(truth.shape, bool)
        level[(level == -1) & ~largest] = (step - 1) * STEP
    level[level == -1] = 1
    return np.asarray(np.abs(_firmness(truth - level) - _firmness(alpha - level)), np.float32)


def _firmness(above: Alpha) -> Alpha:
    return np.asarray(1 - above * (above >= FAR), np.float32)
