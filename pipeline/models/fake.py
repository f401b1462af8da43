"""A model without weights, for tests and trials of everything around a model. It finds what differs from the frame's border."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.forward import Frames, segment_errors, upload

THRESHOLD = 0.15
"""Difference in luminance, of 1, at which alpha is a half."""

SOFTNESS = 0.03
"""The larger, the softer the edge."""


class FakeModel:
    """Alpha from the frame's own pixels: the sigmoid of how far their luminance lies from the border's mean."""

    def __init__(self, frame_px: int, device: torch.device) -> None:
        self.frame_px = frame_px
        self.engine = "none"
        self.device = device

    def __call__(self, frames: Frames) -> Tensor:
        """(N, S, S, 3) uint8 to logits (N, S, S) float32: ``(|Y - mean of the border's Y| - THRESHOLD) / SOFTNESS``.

        Y is Rec. 601 luminance in [0, 1]; the border is one pixel wide.
        """
        with torch.inference_mode(), segment_errors(len(frames)):
            x = upload(frames, self.frame_px, self.device).float() / 255
            y = 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]  # (N, S, S)
            border = torch.cat([y[:, 0], y[:, -1], y[:, 1:-1, 0], y[:, 1:-1, -1]], 1).mean(1)  # (N,)
            return ((y - border[:, None, None]).abs() - THRESHOLD) / SOFTNESS
