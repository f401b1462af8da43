"""Weights to measure with where the real ones aren't at hand: the network's speed doesn't depend on its numbers.

What is around the network does depend on them: noise for a mask costs several times what a mask costs. So the last layers
pass the photo's brightness on, and what is bright is cut out: flat areas with soft edges between them.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.mvanet.checkpoint import LAYOUTS, Layout, expected_keys

LAYOUT_OF = {"ben2-base": "ben2", "mvanet-dis": "mvanet", "finegrain-box": "finegrain"}
"""What the presets' files look like; a preset of one's own is taken for BEN2's."""

GAIN = 1.4
"""Over 1/√(inputs): activations stay near unit variance from the first layer to the last."""

LUMINANCE = (0.299, 0.587, 0.114)
BRIGHT, STEEPNESS = 1.0, 10.0
"""Where the mask's edge lies, in what is about standard deviations of brightness, and how hard it is."""


def write_standin(preset: str, folder: Path) -> Path:
    """A weights file of a MVANet preset's layout, always the same: ``.safetensors``, 380 MB."""
    name = LAYOUT_OF.get(preset, "ben2")
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    generator = torch.Generator().manual_seed(0)
    state = {key: _numbers(key, shape, generator) for key, shape in expected_keys(layout).items()}
    _pass_brightness_on(state, layout)
    path = folder / f"standin-{name}.safetensors"
    save_file(state, path)
    return path


def _numbers(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) > 1:
        return torch.randn(shape, generator=generator) * (GAIN / math.sqrt(math.prod(shape[1:])))
    if key.endswith(("bias", "running_mean")):
        return torch.zeros(shape)
    return torch.full(shape, 0.25) if shape == (1,) else torch.ones(shape)  # the slope of a PReLU; a norm's scale or variance


def _pass_brightness_on(state: dict[str, Tensor], layout: Layout) -> None:
    """The decoder's own map is computed and comes to nothing; the shallow branch gives brightness in every channel."""

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
