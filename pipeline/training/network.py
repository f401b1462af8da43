"""MVANet as it is trained: with side outputs that inference hasn't, and their losses (arXiv 2404.07445)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.models.mvanet.checkpoint import VARIANTS
from pipeline.models.mvanet.network import LOCAL, MVANet, Variant, by_image, stitch, to_nchw, to_nhwc
from pipeline.training.lora import learn_changes
from pipeline.training.losses import alpha_loss, shape_loss
from pipeline.training.recipe import TrainRecipe

PARTS = ("loss", "final", "l1", "slope", "local", "overview", "saliency")
"""What ``Trained`` gives: the sum, and what it is made of before the recipe's weights."""


def variant_of(recipe: TrainRecipe) -> Variant:
    """The network that a recipe asks for."""
    variant = VARIANTS[recipe.variant]
    return variant if recipe.dim is None else dataclasses.replace(variant, dim=recipe.dim)


class Trained(nn.Module):
    """A network and a side output for every map of its decoder.

    Norms of a convolutional backbone keep the statistics of their first training: a batch here is small, and its five views
    of one photo are no sample of the world.
    """

    def __init__(self, network: MVANet, recipe: TrainRecipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        self.names = tuple(network.state_dict())
        if recipe.lora_rank:
            learn_changes(network.backbone, recipe.lora_rank)
        elif not recipe.backbone_rate:
            network.backbone.requires_grad_(False)
        dim = variant_of(recipe).dim
        self.sides = nn.ModuleList(nn.Conv2d(dim, 1, 3, padding=1) for _ in range(len(network.mcrm) + 1))
        """Coarsest first, as ``DecoderFeatures.maps``."""
        spare_depthwise(self)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The network's state as inference has it, learned changes added."""
        places = ((name, *name.rpartition(".")[::2]) for name in self.names)
        return {name: getattr(self.network.get_submodule(module), leaf) for name, module, leaf in places}

    def train(self, mode: bool = True) -> Trained:
        """See ``nn.Module.train``."""
        super().train(mode)
        self.network.backbone.eval()
        return self

    def forward(self, x: Tensor, alpha: Tensor, edge: Tensor) -> Tensor:
        """Losses of a batch.

        Args:
            x: (N, 3, S, S), normalised RGB.
            alpha: (N, 1, S, S) in [0, 1].
            edge: (N, 1, S, S) in [0, 1], how much of an edge a pixel is on.

        Returns:
            As ``PARTS`` names them.
        """
        weights = self.recipe.losses
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            looked = self.network.look(x)
            logits = self.network.draw(x, looked.maps[-1])
            sides = [by_image(to_nhwc(side(maps))) for side, maps in zip(self.sides, looked.maps, strict=True)]
        shape = functools.partial(shape_loss, alpha=alpha, edge=edge, bce=weights.bce, iou=weights.iou)
        final = shape(logits)
        l1, slope = alpha_loss(logits, alpha)
        local = _mean(shape, [to_nchw(stitch(views[:, :LOCAL])) for views in sides])
        overview = _mean(shape, [to_nchw(views[:, LOCAL]) for views in sides])
        saliency = _mean(shape, looked.saliency)
        total = final + weights.l1 * l1 + weights.slope * slope
        total = total + weights.local * local + weights.overview * overview + weights.saliency * saliency
        return torch.stack([total, final, l1, slope, local, overview, saliency])


def _mean(shape: Callable[[Tensor], Tensor], maps: list[Tensor]) -> Tensor:
    return torch.stack([shape(one) for one in maps]).mean()


def spare_depthwise(network: nn.Module) -> None:
    """Let depthwise convolutions stay out of autocast on a CPU, in place.

    oneDNN's gradients of them in bf16 take three to seven times as long as in fp32, and were half of a step.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            setattr(module, "forward", functools.partial(_whole, module.forward))  # noqa: B010  (no method may be assigned)


def _whole(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())


Group = Literal["decoder", "backbone"]


def parameter_groups(trained: Trained) -> dict[Group, list[nn.Parameter]]:
    """Parameters that learn, by the rate that they learn at."""
    backbone = {id(one) for one in trained.network.backbone.parameters()}
    learning = [one for one in trained.parameters() if one.requires_grad]
    return {
        "decoder": [one for one in learning if id(one) not in backbone],
        "backbone": [one for one in learning if id(one) in backbone],
    }
