"""Run an ONNX file as a model of the PyTorch pass: tensors in, tensors out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.models.engines.onnx import OnnxNetwork
from pipeline.models.forward import Frames, one_thread, to_host


class OnnxModel:
    """An ``OnnxNetwork`` with the interface ``load.Model``. Its arguments are those of the network."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        *,
        device: str = "auto",
        threads: int | None = None,
        engine: str = "auto",
        cache: Path | None = None,
    ) -> None:
        gpu = torch.cuda.current_device() if device != "cpu" and torch.cuda.is_available() else 0
        self.network = OnnxNetwork(path, recipe, device=device, device_id=gpu, threads=threads, engine=engine, cache=cache)
        self.frame_px, self.engine = self.network.frame_px, self.network.engine
        self.device = torch.device("cpu") if self.network.device == "cpu" else torch.device("cuda", gpu)

    @one_thread()
    def __call__(self, frames: Frames) -> Tensor:
        """Map (N, S, S, 3) uint8 to logits (N, S, S) float32 on the model's device.

        Raises:
            SegmentError: The graph failed, or did not return one map per image.
        """
        (on_host,) = to_host(frames)
        return torch.from_numpy(self.network(on_host)).to(self.device)
