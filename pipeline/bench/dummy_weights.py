"""Dummy weights for MVANet: the network's speed does not depend on its numbers.

The steps around the network do depend on them: a mask of noise costs several times what a real mask costs. So the last
layers pass the photo's brightness on. Bright areas are cut out: flat areas with soft edges between them.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.mvanet.checkpoint import LAYOUTS, Layout, expected_keys

LAYOUT_OF = {"ben2-base": "ben2", "mvanet-dis": "mvanet", "finegrain-box": "finegrain"}
"""Checkpoint layout by preset; any other preset gets BEN2's."""

GAIN = 1.4
"""Factor of 1/√inputs; it keeps activations near unit variance from the first layer to the last."""

LUMINANCE = (0.299, 0.587, 0.114)
BRIGHT, STEEPNESS = 1.0, 10.0
"""Brightness of the mask's edge, in about standard deviations, and the slope of the logits there."""


def write_dummy_weights(preset: str, folder: Path) -> Path:
    """Write a ``.safetensors`` file (380 MB) in the layout of an MVANet preset, always with the same numbers."""
    name = LAYOUT_OF.get(preset, "ben2")
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    generator = torch.Generator().manual_seed(0)
    state = {key: _numbers(key, shape, generator) for key, shape in expected_keys(layout).items()}
    _pass_brightness_on(state, layout)
    path = folder / f"dummy-{name}.safetensors"
    save_file(state, path)
    return path


def _numbers(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) > 1:
        return torch.randn(shape, generator=generator) * (GAIN / math.sqrt(math.prod(shape[1:])))
    if key.endswith(("bias", "running_mean")):
        return torch.zeros(shape)
    return torch.full(shape, 0.25) if shape == (1,) else torch.ones(shape)  # a PReLU's slope; a norm's scale or variance


def _pass_brightness_on(state: dict[str, Tensor], layout: Layout) -> None:
    """Multiply the decoder's own map by zero, and fill every channel of the shallow branch with brightness."""

    def of(module: str) -> tuple[Tensor, Tensor]:
        return state[f"{layout.modules[module]}.weight"], state[f"{layout.modules[module]}.bias"]

    of("merge.2")[0].zero_()
    shallow, _ = of("shallow")  # (C, 3, 3, 3)
    shallow.copy_((torch.tensor(LUMINANCE) / 9)[:, None, None].expand(shallow.shape))
    for module in ("upsample1.conv", "upsample2.conv"):
        weight, _ = of(module)
        weight.fill_(1 / weight[0].numel())
    weight, bias = of("output")
    weight.fill_(STEEPNESS / weight[0].numel())
    bias.fill_(-STEEPNESS * BRIGHT)
