"""Load the weights that a training starts from, key by key. Every key of the file and of the network is accounted for."""

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

CLASSIFIER = re.compile(r"^(conv_head|bn2|classifier)\.")
"""Layers of an EfficientNet after its last features, which only classification needs."""


@dataclass(frozen=True)
class InitialWeights:
    """Report of the parameters that were loaded. The other parameters of the network stay random."""

    loaded: int
    """Number of tensors."""
    random: tuple[str, ...]
    """Modules of the network for which the file has no weights."""
    unused: tuple[str, ...]
    """Keys of the file that the network does not need."""

    def __str__(self) -> str:
        random = f"; {', '.join(self.random)} start with random weights" if self.random else ""
        unused = f"; {len(self.unused)} keys of the file are not needed ({self.unused[0]} …)" if self.unused else ""
        return f"{self.loaded} tensors loaded{random}{unused}"


def load_initial(network: MVANet, path: Path, variant: Variant) -> InitialWeights:
    """Load a file into a network of a variant, in place.

    The file is a checkpoint of this variant in any layout that a job can run, or the backbone's classification weights under
    timm's names.

    Raises:
        WeightsError: A key is unknown or missing, or its shape differs.
    """
    tensors = open_tensors(path)
    if isinstance(network.backbone, TimmFeatures) and any(CLASSIFIER.match(key) for key in tensors):
        return _load_backbone(network.backbone, network, tensors, path)
    state, unused = read_state(path, variant)
    network.load_state_dict(state, strict=True)
    return InitialWeights(len(state), (), unused)


def _load_backbone(backbone: TimmFeatures, network: nn.Module, tensors: dict[str, Tensor], path: Path) -> InitialWeights:
    expected = backbone.body.state_dict()
    unused = tuple(key for key in tensors if CLASSIFIER.match(key))
    wrong = [f"it lacks {key}" for key in expected if key not in tensors]
    wrong += [f"{key} is not part of it" for key in tensors if key not in expected and key not in unused]
    wrong += [f"{key} has another shape" for key in expected if key in tensors and tensors[key].shape != expected[key].shape]
    if wrong:
        raise WeightsError(f"{path} does not fit the backbone: {wrong[0]}")
    backbone.body.load_state_dict({key: tensors[key] for key in expected}, strict=True)
    return InitialWeights(len(expected), tuple(name for name, _ in network.named_children() if name != "backbone"), unused)
