"""The model without weights in the PyTorch pass: tensors in, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.models.failures import segment_errors
from pipeline.models.fake import fake_logits
from pipeline.models.forward import Frames, upload


class FakeModel:
    """``FakeNetwork`` with the interface ``load.Model``, on any device."""

    engine = "none"

    def __init__(self, frame_px: int, device: torch.device) -> None:
        self.frame_px, self.device = frame_px, device

    def __call__(self, frames: Frames) -> Tensor:
        """See ``Model``."""
        with torch.inference_mode(), segment_errors(len(frames)):
            logits: Tensor = fake_logits(upload(frames, self.frame_px, self.device).float())
            return logits
