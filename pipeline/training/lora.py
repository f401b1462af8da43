"""Large weights that learn a small change only (LoRA, arXiv 2106.09685): W + B·A, where B and A have few rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Change(nn.Module):
    """What is added to a matrix (rows, columns): nothing to begin with."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """(rows, columns) to the same."""
        return weight + self.up @ self.down


def learn_changes(module: nn.Module, rank: int) -> None:
    """Freeze a module and let its linear layers learn a change of this rank, in place."""
    module.requires_grad_(False)
    for layer in [one for one in module.modules() if isinstance(one, nn.Linear)]:
        parametrize.register_parametrization(layer, "weight", Change(layer.out_features, layer.in_features, rank))
