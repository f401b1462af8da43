"""What a mask is worth, as a small network sees it: the Dice that it expects, from the photo and the model's map.

What a model says of itself can't tell that it is sure of the wrong object; a look at photo and mask together can (networks
that foretell the overlap: Robinson et al., MICCAI 2018; Huang et al., "Mask Scoring R-CNN", CVPR 2019). Features of
EfficientNet-Lite0, as ImageNet taught them, are mixed with what is seen of the map, and averaged over the object, over what
surrounds it and over all; three numbers are made of the averages. Only what follows the features is trained, on photos of
which a model's maps turned out good or bad (``pipeline.training.estimator``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.config.recipe import ESTIMATOR_SHA256
from pipeline.models.engines.openvino import OpenVinoModel, has_openvino
from pipeline.models.forward import Frames
from pipeline.models.tensors import fill, matched
from pipeline.paths import WEIGHTS

BUNDLED = WEIGHTS / "estimator.safetensors"
"""The weights in the package, made by ``make train-estimator``; ``estimator.md`` beside them says of what."""

SIDE_PX = 160
"""Photo and map are reduced to this; the map then to half of it."""

STAGES = 5
"""Of EfficientNet-Lite0's seven: those that end at a sixteenth of the size. The other two told nothing more."""

SAYS = 3
"""Dice, P(Dice ≥ 0.9) and P(Dice ≥ 0.95), as logits."""

Look = Callable[[Tensor], Tensor]
"""(N, 4, s, s) as ``seen`` gives it to (N, SAYS) logits."""


class Estimator(nn.Module):
    """The network."""

    def __init__(self) -> None:
        import timm  # takes two seconds, which a process with a frozen graph never needs

        super().__init__()
        backbone: Any = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3))
        backbone.blocks = backbone.blocks[:STAGES]
        self.backbone = backbone
        self.fine, self.coarse = _conv(40, 24, 2), _conv(112, 64, 1, 1)
        self.map = nn.Sequential(_conv(3, 16, 2), _conv(16, 24, 2), _conv(24, 32, 2))
        self.mix = nn.Sequential(_conv(32 + 3 + 24 + 64, 96, 1), _conv(96, 96, 1))
        self.forget = nn.Dropout2d(0.2)
        self.head = nn.Sequential(nn.Dropout(0.4), nn.Linear(3 * 96, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, SAYS))

    def forward(self, seen: Tensor) -> Tensor:
        """(N, 4, s, s), s = ``SIDE_PX``, to (N, SAYS)."""
        fine, coarse = self.backbone(seen[:, :3])  # (N, 40, s/8, s/8), (N, 112, s/16, s/16)
        return self.judge(fine, coarse, seen[:, 3:])

    def judge(self, fine: Tensor, coarse: Tensor, p: Tensor) -> Tensor:
        """Of the backbone's two maps, and the model's (N, 1, s, s): what is trained."""
        half = F.avg_pool2d(p, 2)
        told = torch.cat([2 * half - 1, 4 * half * (1 - half), (half > 0.5).to(p.dtype)], 1)  # (N, 3, s/2, s/2)
        photo = self.forget(torch.cat([self.fine(fine), self.coarse(coarse)], 1))
        mixed = self.mix(torch.cat([self.map(told), F.avg_pool2d(told, 8), photo], 1))  # (N, 96, s/16, s/16)
        inside = F.avg_pool2d(p, 16)
        places = (inside, 1 - inside)
        means = [(mixed * place).sum((2, 3)) / (place.sum((2, 3)) + 0.5) for place in places]
        said: Tensor = self.head(torch.cat([*means, mixed.mean((2, 3))], 1))
        return said


def _conv(seen: int, width: int, stride: int, side: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(seen, width, side, stride, side // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def load_estimator(device: torch.device, *, threads: int | None, cache: Path | None, path: Path = BUNDLED) -> Look:
    """The network with a file's weights, ready to look: by OpenVINO on a CPU that has it, else by PyTorch.

    Args:
        threads, cache: see ``OpenVinoModel``.

    Raises:
        WeightsError: not a weights file, not this network's, or with numbers that are not finite.
    """

    def make() -> Estimator:
        network = Estimator()
        tensors = matched(path, network, "the estimator's", "install the package anew")
        fill(network, tensors, path, torch.float32)
        return network.eval().requires_grad_(False)

    if device.type == "cpu" and has_openvino():
        return OpenVinoModel(make, ESTIMATOR_SHA256, SIDE_PX, "fp32", threads=threads, cache=cache, channels=4)
    return make().to(device).to(memory_format=torch.channels_last)


def seen(p: Tensor, frames: Frames) -> Tensor:
    """What the network sees, on p's device, without waiting for it: colours in [-1, 1] and p, (N, 4, SIDE_PX, SIDE_PX).

    Args:
        p: (N, S, S) float32 in [0, 1].
        frames: (N, S, S, 3) uint8, what the model saw.
    """
    photo = _reduced(torch.as_tensor(frames)).to(p.device, non_blocking=True)
    return torch.cat([(photo / 127.5 - 1).permute(0, 3, 1, 2), _reduced(p)[:, None]], 1)


def _reduced(planes: Tensor) -> Tensor:
    """Means of 2×2 points that lie evenly in (N, S, S, …): (N, SIDE_PX, SIDE_PX, …) float32. More points tell nothing more."""
    side = planes.shape[1]
    if side != 2 * SIDE_PX:
        points = (2 * torch.arange(2 * SIDE_PX, device=planes.device) + 1) * side // (4 * SIDE_PX)
        planes = planes.index_select(1, points).index_select(2, points)
    rows = planes[:, ::2].float() + planes[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4


def expected_dice(look: Look, p: Tensor, frames: Frames) -> Tensor:
    """The geometric mean of what the network says: (N,) float32 in [0, 1].

    It ranks better than the Dice alone, and what surely is no good mask has little of it, though its Dice may be 0.6.
    """
    with torch.inference_mode():
        return said_together(look(seen(p, frames)))


def said_together(said: Tensor) -> Tensor:
    """(N, SAYS) logits to one number each, (N,) in [0, 1]."""
    return F.logsigmoid(said).mean(1).exp()
