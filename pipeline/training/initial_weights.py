"""Weights to begin with, taken over key by key: nothing of the file and nothing of the network is left unaccounted for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.models.mvanet.backbones import TimmFeatures
from pipeline.models.mvanet.checkpoint import read_state
from pipeline.models.mvanet.network import MVANet, Variant
from pipeline.models.tensors import open_tensors

HEAD = re.compile(r"^(conv_head|bn2|classifier)\.")
"""Of an EfficientNet, what comes after the last features: for classification only."""


@dataclass(frozen=True)
class Started:
    """What was taken over; the rest of the network begins with random numbers."""

    loaded: int
    fresh: tuple[str, ...]
    """Modules of the network that the file has nothing for."""
    unused: tuple[str, ...]
    """Keys of the file that the network doesn't need, by rule."""

    def __str__(self) -> str:
        fresh = f"; new are {', '.join(self.fresh)}" if self.fresh else ""
        unused = f"; not needed are {len(self.unused)} of the file's ({self.unused[0]} …)" if self.unused else ""
        return f"{self.loaded} tensors taken over{fresh}{unused}"


def start_from(network: MVANet, path: Path, variant: Variant) -> Started:
    """Fill a network from a file, in place.

    Args:
        path: a checkpoint of this variant in any layout that a job can run, or the backbone's weights for classification, as
            timm names them.

    Raises:
        WeightsError: a key is unknown, missing, or of another shape.
    """
    tensors = open_tensors(path)
    if isinstance(network.backbone, TimmFeatures) and any(HEAD.match(key) for key in tensors):
        return _backbone_from(network.backbone, network, tensors, path)
    state, unused = read_state(path, variant)
    network.load_state_dict(state, strict=True)
    return Started(len(state), (), unused)


def _backbone_from(backbone: TimmFeatures, network: nn.Module, tensors: dict[str, Tensor], path: Path) -> Started:
    wanted = backbone.body.state_dict()
    unused = tuple(key for key in tensors if HEAD.match(key))
    odd = [key for key in wanted if key not in tensors] + [key for key in tensors if key not in wanted and key not in unused]
    odd += [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if odd:
        raise WeightsError(f"{path} doesn't fit the backbone: {odd[0]} is in one of them only, or of another shape there")
    backbone.body.load_state_dict({key: tensors[key] for key in wanted}, strict=True)
    return Started(len(wanted), tuple(name for name, _ in network.named_children() if name != "backbone"), unused)
