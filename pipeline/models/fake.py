"""A model without weights, for tests: it finds pixels that differ from the frame's border."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.failures import segment_errors
from pipeline.models.forward import Frames, upload

THRESHOLD = 0.15
"""Difference in luminance, in [0, 1], at which alpha is 0.5."""

SOFTNESS = 0.03
"""Width of the edge in luminance."""


class FakeModel:
    """Predict alpha as the sigmoid of each pixel's difference in luminance from the border's mean."""

    def __init__(self, frame_px: int, device: torch.device) -> None:
        self.frame_px = frame_px
        self.engine = "none"
        self.device = device

    def __call__(self, frames: Frames) -> Tensor:
        """Return logits (N, S, S) float32 of frames (N, S, S, 3) uint8: ``(|Y - border's mean Y| - THRESHOLD) / SOFTNESS``.

        Y is Rec. 601 luminance in [0, 1]; the border is one pixel wide.
        """
        with torch.inference_mode(), segment_errors(len(frames)):
            x = upload(frames, self.frame_px, self.device).float() / 255
            y = 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]  # (N, S, S)
            border = torch.cat([y[:, 0], y[:, -1], y[:, 1:-1, 0], y[:, 1:-1, -1]], 1).mean(1)  # (N,)
            return ((y - border[:, None, None]).abs() - THRESHOLD) / SOFTNESS
