"""Batch norms folded into the convolutions before them: in inference both are one affine map."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.models.mvanet import ConvBlock


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> None:
    """Fold every ``ConvBlock``'s batch norm, in place; the network is for inference from then on.

    ``γ·(W∗x + b − μ)/√(σ² + ε) + β`` is a convolution with ``W·s`` and ``(b − μ)·s + β``, where ``s = γ/√(σ² + ε)``. Computed
    in float64, rounded once. Instance norms depend on their input and stay.
    """
    for block in network.modules():
        if isinstance(block, ConvBlock) and isinstance(block.norm, nn.BatchNorm2d):
            conv, norm = block.conv, block.norm
            assert conv.bias is not None and norm.running_mean is not None and norm.running_var is not None
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
            conv.weight.copy_(conv.weight.double() * scale[:, None, None, None])
            conv.bias.copy_(bias)
            block.norm = nn.Identity()
