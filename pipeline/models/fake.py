"""A model without weights, for tests: it finds pixels that differ from the frame's border. Imports no PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.models.host_frames import check_frames

THRESHOLD = 0.15
"""Difference in luminance, in [0, 1], at which alpha is 0.5."""

SOFTNESS = 0.03
"""Width of the edge in luminance."""


class FakeNetwork:
    """Predict alpha as the sigmoid of each pixel's difference in luminance from the border's mean."""

    device, engine = "cpu", "none"

    def __init__(self, frame_px: int) -> None:
        self.frame_px = frame_px

    def __call__(self, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return ``fake_logits`` of frames (N, S, S, 3) uint8."""
        check_frames(frames, self.frame_px)
        logits: npt.NDArray[np.float32] = fake_logits(frames.astype(np.float32))
        return logits


def fake_logits(frames: Any) -> Any:
    """Return ``(|Y - border's mean Y| - THRESHOLD) / SOFTNESS``: logits (N, S, S) float32.

    Y is Rec. 601 luminance in [0, 1]; the border is one pixel wide.

    Args:
        frames: (N, S, S, 3) float32 in 0..255: an array, or a tensor on any device.
    """
    y = (0.299 * frames[..., 0] + 0.587 * frames[..., 1] + 0.114 * frames[..., 2]) / 255  # (N, S, S)
    total = y[:, 0].sum(1) + y[:, -1].sum(1) + y[:, 1:-1, 0].sum(1) + y[:, 1:-1, -1].sum(1)
    border = total / (4 * y.shape[1] - 4)  # (N,)
    return (abs(y - border[:, None, None]) - THRESHOLD) / SOFTNESS
