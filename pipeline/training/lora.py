"""Train a low-rank update of frozen weights (LoRA, arXiv 2106.09685): W + B·A, where B and A have few columns and rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankUpdate(nn.Module):
    """An update of a matrix (rows, columns). It begins at 0."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Add the update to a weight (rows, columns)."""
        return weight + self.up @ self.down


def add_lora(module: nn.Module, rank: int) -> None:
    """Freeze a module and give each of its linear layers an update of this rank, in place."""
    module.requires_grad_(False)
    for layer in [one for one in module.modules() if isinstance(one, nn.Linear)]:
        parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.out_features, layer.in_features, rank))
