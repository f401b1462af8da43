"""Fuse norms into the convolutions before them, for inference."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.mvanet.network import ConvBlock, InstanceNorm


@torch.no_grad()
def fuse_conv_bn(network: nn.Module) -> None:
    """Fuse every ``ConvBlock``'s norm, in place. Afterwards the network is for inference only.

    Batch norm: ``γ·(W∗x + b − μ)/√(σ² + ε) + β`` is a convolution with ``W·s`` and ``(b − μ)·s + β``, where
    ``s = γ/√(σ² + ε)``. Computed in float64, rounded once.

    Instance norm depends on its input and stays, but it removes the mean, so the convolution's bias is dropped.
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
