"""ViTMatte's published weights, read without running anything in them and without asking anybody for their configuration.

The network is transformers' ``VitMatteForImageMatting``; its sizes follow from the shapes in the file, and then every key must
be there and none besides. What no shape tells is as in the published configurations (hustvl/vitmatte-small-composition-1k and
its sisters; the same numbers stand in transformers' conversion script): blocks with a residual branch attend to the whole tile,
the others to windows; the last block's features are the decoder's; GELU, and the norms' usual epsilons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.models.tensors import finite, open_tensors

COUNTS = re.compile(r"\.num_batches_tracked$")
"""They count training steps; nothing reads them in inference, and a file may do without."""

LAYER = "backbone.encoder.layer"


def load_vitmatte(path: Path, *, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network with a file's weights, for inference: (N, 4, H, W) to ``.alphas`` (N, 1, H, W), sides in multiples of 32.

    Raises:
        WeightsError: not a weights file, not ViTMatte's, or with numbers that are not finite.
    """
    network, tensors = _match(path)
    state = {}
    for key, slot in network.state_dict().items():
        if COUNTS.search(key):
            state[key] = torch.zeros(slot.shape, dtype=slot.dtype)
            continue
        state[key] = finite(tensors, key, path, dtype)
    network.load_state_dict(state, strict=True, assign=True)
    return network.to(device=device, dtype=dtype).eval().requires_grad_(False)


def check_vitmatte(path: Path) -> None:
    """Refuse a file by its keys and shapes alone.

    Raises:
        WeightsError: not a weights file, or not ViTMatte's.
    """
    _match(path)


def _match(path: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network without numbers, and the file's tensors, which fit it."""
    tensors = open_tensors(path)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items() if not COUNTS.search(key)}
    try:
        network = _empty_network(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(
            f"{path} isn't ViTMatte's: nothing in it tells {error}. recipe.refiner_weights wants a model.safetensors as "
            "published in hustvl/vitmatte-small-distinctions-646 and the like"
        ) from error
    expected = {key: tuple(slot.shape) for key, slot in network.state_dict().items() if not COUNTS.search(key)}
    for key in sorted(expected.keys() | shapes.keys()):
        if expected.get(key) != shapes.get(key):
            have, want = (str(list(some[key])) if key in some else "absent" for some in (shapes, expected))
            raise WeightsError(f"{path} isn't ViTMatte's: {key} is {have}, but should be {want}; use a published file as it is")
    for key in shapes:
        if tensors[key].dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise WeightsError(f"{path}: {key} is stored as {tensors[key].dtype}; weights may be float32, float16 or bfloat16")
    return network, tensors


def _empty_network(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The network that these shapes are of, without numbers."""
    from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting

    hidden, channels, patch, _ = shapes["backbone.embeddings.projection.weight"]
    positions = shapes["backbone.embeddings.position_embeddings"][1]
    layers = len({key.split(".")[3] for key in shapes if key.startswith(f"{LAYER}.")})
    whole = [number for number in range(layers) if f"{LAYER}.{number}.residual.conv1.weight" in shapes]
    windowed = [number for number in range(layers) if number not in whole]
    reach, head = shapes[f"{LAYER}.{whole[0]}.attention.rel_pos_h"]
    backbone = VitDetConfig(
        num_channels=channels,
        hidden_size=hidden,
        patch_size=patch,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head,
        mlp_ratio=shapes[f"{LAYER}.0.mlp.fc1.weight"][0] // hidden,
        image_size=(reach + 1) // 2 * patch,
        pretrain_image_size=math.isqrt(positions - 1) * patch,
        window_size=(shapes[f"{LAYER}.{windowed[0]}.attention.rel_pos_h"][0] + 1) // 2,
        window_block_indices=windowed,
        residual_block_indices=whole,
        use_absolute_position_embeddings=True,
        use_relative_position_embeddings=True,
        out_features=[f"stage{layers}"],
    )
    config = VitMatteConfig(
        backbone_config=backbone,
        hidden_size=hidden,
        convstream_hidden_sizes=_widths(shapes, "decoder.convstream.convs.{}.conv.weight"),
        fusion_hidden_sizes=_widths(shapes, "decoder.fusion_blocks.{}.conv.conv.weight"),
    )
    with torch.device("meta"):
        network: Any = VitMatteForImageMatting(config)
    assert isinstance(network, nn.Module)
    return network


def _widths(shapes: Mapping[str, tuple[int, ...]], key: str) -> list[int]:
    """Channels that come out of numbered layers, from the first on."""
    found: list[int] = []
    while (name := key.format(len(found))) in shapes:
        found.append(shapes[name][0])
    return found
