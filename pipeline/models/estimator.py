"""A small network that predicts a mask's Dice from the photo and the model's map.

A model's own confidence cannot tell that it segmented the wrong object; a network that sees photo and mask together can
(Robinson et al., MICCAI 2018; Huang et al., "Mask Scoring R-CNN", CVPR 2019). Features of EfficientNet-Lite0, pretrained on
ImageNet, are mixed with features of the map and averaged over the object, its surroundings and the whole map. Three logits
follow from the averages. Only the layers after the backbone are trained (``pipeline.training.estimator``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import Frames
from pipeline.models.graphs.graph import Graph
from pipeline.models.tensors import load_tensors, open_matching
from pipeline.paths import WEIGHTS

BUNDLED = WEIGHTS / "estimator.safetensors"
"""The weights in the package, made by ``make train-estimator``; ``estimator.md`` beside them is their model card."""

SIDE_PX = 160
"""Side of the network's input."""

STAGES = 5
"""Stages of EfficientNet-Lite0 that are used: those that end at 1/16 of the size. The last two of its seven added nothing."""

OUTPUTS = 3
"""Logits of the Dice, of P(Dice ≥ 0.9) and of P(Dice ≥ 0.95)."""

Predict = Callable[[Tensor], Tensor]
"""Maps ``make_input``'s (N, 4, SIDE_PX, SIDE_PX) to the expected Dice, (N,) float32 in [0, 1]."""


class Estimator(nn.Module):
    """The network."""

    def __init__(self) -> None:
        import timm  # takes two seconds, and is not needed on a CPU

        super().__init__()
        backbone: Any = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3))
        backbone.blocks = backbone.blocks[:STAGES]
        self.backbone = backbone
        self.fine, self.coarse = _conv(40, 24, 2), _conv(112, 64, 1, 1)
        self.map = nn.Sequential(_conv(3, 16, 2), _conv(16, 24, 2), _conv(24, 32, 2))
        self.mix = nn.Sequential(_conv(32 + 3 + 24 + 64, 96, 1), _conv(96, 96, 1))
        self.dropout = nn.Dropout2d(0.2)
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(3 * 96, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 4, s, s), s = ``SIDE_PX``, to (N, OUTPUTS)."""
        fine, coarse = self.backbone(x[:, :3])  # (N, 40, s/8, s/8), (N, 112, s/16, s/16)
        return self.predict(fine, coarse, x[:, 3:])

    def predict(self, fine: Tensor, coarse: Tensor, p: Tensor) -> Tensor:
        """Run the trained layers on the backbone's two feature maps and the model's map (N, 1, s, s)."""
        half = F.avg_pool2d(p, 2)
        planes = torch.cat([2 * half - 1, 4 * half * (1 - half), (half > 0.5).to(p.dtype)], 1)  # (N, 3, s/2, s/2)
        photo = self.dropout(torch.cat([self.fine(fine), self.coarse(coarse)], 1))
        mixed = self.mix(torch.cat([self.map(planes), F.avg_pool2d(planes, 8), photo], 1))  # (N, 96, s/16, s/16)
        inside = F.avg_pool2d(p, 16)
        means = [(mixed * area).sum((2, 3)) / (area.sum((2, 3)) + 0.5) for area in (inside, 1 - inside)]
        logits: Tensor = self.head(torch.cat([*means, mixed.mean((2, 3))], 1))
        return logits


def _conv(inputs: int, outputs: int, stride: int, side: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def load_network(path: Path = BUNDLED) -> Estimator:
    """Load the network for inference in PyTorch on the CPU.

    Raises:
        WeightsError: Not a weights file, not this network's, or with numbers that are not finite.
    """
    network = Estimator()
    tensors = open_matching(path, network, "the estimator", "install the package again")
    load_tensors(network, tensors, path, torch.float32)
    return network.eval().requires_grad_(False)


def load_estimator(device: torch.device) -> Predict:
    """Load the estimator: on a CPU the prebuilt graph, else the network in PyTorch.

    Raises:
        WeightsError: As ``load_network``.
    """
    if device.type == "cpu":
        graph = Graph("estimator.onnx", 1)
        return lambda x: torch.from_numpy(np.concatenate([graph(one[None])[0] for one in x.numpy()]))
    network = load_network().to(device).to(memory_format=torch.channels_last)
    return lambda x: combine_logits(network(x))


def make_input(p: Tensor, frames: Frames) -> Tensor:
    """Build the network's input on p's device, without waiting for it: colours in [-1, 1] and p, (N, 4, SIDE_PX, SIDE_PX).

    Args:
        p: (N, S, S) float32 in [0, 1].
        frames: (N, S, S, 3) uint8, the model's input.
    """
    photo = _reduce(torch.as_tensor(frames)).to(p.device, non_blocking=True)
    return torch.cat([(photo / 127.5 - 1).permute(0, 3, 1, 2), _reduce(p)[:, None]], 1)


def _reduce(planes: Tensor) -> Tensor:
    """Reduce (N, S, S, …) to (N, SIDE_PX, SIDE_PX, …) float32: means of 2×2 evenly spaced points. More points add nothing."""
    side = planes.shape[1]
    if side != 2 * SIDE_PX:
        points = (2 * torch.arange(2 * SIDE_PX, device=planes.device) + 1) * side // (4 * SIDE_PX)
        planes = planes.index_select(1, points).index_select(2, points)
    rows = planes[:, ::2].float() + planes[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4


def expected_dice(predict: Predict, p: Tensor, frames: Frames) -> Tensor:
    """Return the expected Dice of masks, (N,) float32 in [0, 1]; arguments as for ``make_input``."""
    with torch.inference_mode():
        return predict(make_input(p, frames))


def combine_logits(logits: Tensor) -> Tensor:
    """Reduce (N, OUTPUTS) logits to the geometric mean of their sigmoids, (N,) in [0, 1].

    It ranks masks better than the predicted Dice alone: a bad mask may have a Dice of 0.6, but surely no good one.
    """
    return F.logsigmoid(logits).mean(1).exp()
