"""Compute the four errors of alpha matting.

Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting" (CVPR 2009), with the parameters of their
MATLAB code as commonly used (Xu et al., "Deep Image Matting", CVPR 2017): Grad with Gaussian derivatives of σ = 1.4,
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
"""Distance to the connected component up to which it counts as 0 (θ)."""

Region = npt.NDArray[np.bool_]


class MattingErrors(NamedTuple):
    """Errors of one alpha; 0 is best."""

    sad: float
    """Σ|Δ| / 1000."""
    mse: float
    """Mean of Δ²."""
    grad: float
    """Σ(|∇α| - |∇ground truth|)² / 1000."""
    conn: float
    """Σ|φ(α) - φ(ground truth)| / 1000."""


def matting_errors(alpha: Alpha, ground_truth: Alpha, region: Region | None = None) -> MattingErrors:
    """Compute all four for (H, W) float32 in [0, 1], in a region (H, W) or everywhere."""
    where = np.ones(ground_truth.shape, bool) if region is None else region
    difference = np.abs(alpha - ground_truth)[where].astype(np.float64)
    slopes = (_slope(alpha) - _slope(ground_truth))[where].astype(np.float64)
    parts = (_connectedness(alpha, ground_truth)[where]).astype(np.float64)
    return MattingErrors(
        difference.sum() / 1000,
        float(np.square(difference).mean()) if difference.size else 0.0,
        np.square(slopes).sum() / 1000,
        parts.sum() / 1000,
    )


def _slope(alpha: Alpha) -> Alpha:
    """Return |∇α| by the derivative of a Gaussian, each filter of unit energy."""
    half = math.ceil(SIGMA * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * SIGMA * 1e-2)))
    place = np.arange(-half, half + 1, dtype=np.float64)
    bell = np.exp(-(place**2) / (2 * SIGMA**2)) / (SIGMA * math.sqrt(2 * math.pi))
    slope = -place * bell / SIGMA**2
    energy = math.sqrt((np.outer(bell, slope) ** 2).sum())
    across = cv2.sepFilter2D(alpha, cv2.CV_32F, slope / energy, bell, borderType=cv2.BORDER_REPLICATE)
    down = cv2.sepFilter2D(alpha, cv2.CV_32F, bell, slope / energy, borderType=cv2.BORDER_REPLICATE)
    return np.hypot(across, down)


def _connectedness(alpha: Alpha, ground_truth: Alpha) -> Alpha:
    """Return |φ(α) - φ(ground truth)| from the threshold up to which a pixel is connected to the largest common component."""
    level = np.full(ground_truth.shape, -1, np.float32)
    for step in range(1, round(1 / STEP) + 1):
        both = ((alpha >= step * STEP) & (ground_truth >= step * STEP)).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(both, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA]
        largest = labels == 1 + int(areas.argmax()) if len(areas) else np.zeros(ground_truth.shape, bool)
        level[(level == -1) & ~largest] = (step - 1) * STEP
    level[level == -1] = 1
    return np.asarray(np.abs(_connection(ground_truth - level) - _connection(alpha - level)), np.float32)


def _connection(above: Alpha) -> Alpha:
    return np.asarray(1 - above * (above >= FAR), np.float32)
