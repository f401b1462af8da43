"""Norms folded into the convolutions before them, as far as inference allows."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.mvanet.network import ConvBlock, InstanceNorm


@torch.no_grad()
def fuse_conv_bn(network: nn.Module) -> None:
    """Fold every ``ConvBlock``'s norm, in place; the network is for inference from then on.

    Batch norm: ``γ·(W∗x + b − μ)/√(σ² + ε) + β`` is a convolution with ``W·s`` and ``(b − μ)·s + β``, where
    ``s = γ/√(σ² + ε)``. Computed in float64, rounded once.

    Instance norm: it depends on its input and stays, but takes the mean out again, so the convolution's bias goes.
    """
    for block in network.modules():
        if not isinstance(block, ConvBlock):
            continue
        conv, norm = block.conv, block.norm
        if isinstance(norm, nn.BatchNorm2d):
            assert conv.bias is not None and norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
            conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])
            conv.bias.copy_(bias)
            block.norm = nn.Identity()
        elif isinstance(norm, InstanceNorm):
            conv.bias = None
