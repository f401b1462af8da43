"""Train MVANet with side outputs that inference does not have (deep supervision, arXiv 2404.07445)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.models.mvanet.checkpoint import VARIANTS
from pipeline.models.mvanet.network import LOCAL, MVANet, Variant, by_image, stitch, to_nchw, to_nhwc
from pipeline.training.lora import add_lora
from pipeline.training.losses import alpha_loss, shape_loss
from pipeline.training.recipe import TrainRecipe

LOSSES = ("loss", "final", "l1", "slope", "local", "overview", "saliency")
"""Result of ``SupervisedMVANet``: the weighted sum, and its terms without their weights."""


def variant_of(recipe: TrainRecipe) -> Variant:
    """Return the network that a recipe names."""
    variant = VARIANTS[recipe.variant]
    return variant if recipe.dim is None else dataclasses.replace(variant, dim=recipe.dim)


class SupervisedMVANet(nn.Module):
    """A network with a side output for every map of its decoder, and the losses of all of them.

    The norms of a convolutional backbone keep their ImageNet statistics. A batch is too small to estimate them: it is a few
    photos, each seen in five views.
    """

    def __init__(self, network: MVANet, recipe: TrainRecipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        self.names = tuple(network.state_dict())
        if recipe.lora_rank:
            add_lora(network.backbone, recipe.lora_rank)
        elif not recipe.backbone_rate:
            network.backbone.requires_grad_(False)
        dim = variant_of(recipe).dim
        # Coarsest first, as DecoderFeatures.maps.
        count = len(network.mcrm) + 1 if recipe.losses.local or recipe.losses.overview else 0
        self.sides = nn.ModuleList(nn.Conv2d(dim, 1, 3, padding=1) for _ in range(count))
        run_depthwise_in_fp32(self)

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """Return the network's state as inference needs it, with low-rank updates added."""
        places = ((name, *name.rpartition(".")[::2]) for name in self.names)
        return {name: getattr(self.network.get_submodule(module), leaf) for name, module, leaf in places}

    def train(self, mode: bool = True) -> SupervisedMVANet:
        """Set the mode of everything but the backbone, which stays in evaluation mode."""
        super().train(mode)
        self.network.backbone.eval()
        return self

    def forward(self, x: Tensor, alpha: Tensor, edge: Tensor) -> Tensor:
        """Return the losses of a batch, in the order of ``LOSSES``. Those without a weight are 0.

        Args:
            x: (N, 3, S, S), normalised RGB.
            alpha: (N, 1, S, S) in [0, 1].
            edge: (N, 1, S, S) in [0, 1], 1 on a sharp edge.
        """
        weights = self.recipe.losses
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            features = self.network.decode(x)
            logits = self.network.predict(x, features.maps[-1])
            sides = [by_image(to_nhwc(side(maps))) for side, maps in zip(self.sides, features.maps, strict=False)]
        shape = functools.partial(shape_loss, alpha=alpha, edge=edge, bce=weights.bce, iou=weights.iou)
        final = shape(logits)
        l1, slope = alpha_loss(logits, alpha)
        zero = final.new_zeros(())
        local = _mean(shape, [to_nchw(stitch(views[:, :LOCAL])) for views in sides]) if weights.local else zero
        overview = _mean(shape, [to_nchw(views[:, LOCAL]) for views in sides]) if weights.overview else zero
        saliency = _mean(shape, features.saliency) if weights.saliency else zero
        total = final + weights.l1 * l1 + weights.slope * slope
        total = total + weights.local * local + weights.overview * overview + weights.saliency * saliency
        return torch.stack([total, final, l1, slope, local, overview, saliency])


def _mean(shape: Callable[[Tensor], Tensor], maps: list[Tensor]) -> Tensor:
    return torch.stack([shape(one) for one in maps]).mean()


def run_depthwise_in_fp32(network: nn.Module) -> None:
    """Exclude depthwise convolutions from autocast on a CPU, in place.

    In bf16, oneDNN's gradients of them take three to seven times as long as in fp32, which was half of a step.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            setattr(module, "forward", functools.partial(_in_fp32, module.forward))  # noqa: B010  (no method may be assigned)


def _in_fp32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float())


def parameter_groups(network: SupervisedMVANet) -> dict[Literal["decoder", "backbone"], list[nn.Parameter]]:
    """Return the trainable parameters of the decoder and of the backbone, which have different learning rates."""
    backbone = {id(one) for one in network.network.backbone.parameters()}
    trainable = [one for one in network.parameters() if one.requires_grad]
    return {
        "decoder": [one for one in trainable if id(one) not in backbone],
        "backbone": [one for one in trainable if id(one) in backbone],
    }
