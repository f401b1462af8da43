"""Backbones of MVANet: five feature maps of a view.

The decoder needs maps of 1/4 of the view's side (twice), 1/8, 1/16 and 1/32, as Swin has. A convolutional network's first map
is 1/2. Like Swin's patches it holds colours and edges that no block has processed, so it is used as the first map, and the
decoder's lateral convolution halves it (``strides``).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.models.mvanet.swin import Swin


class TimmFeatures(nn.Module):
    """A convolutional network of timm with features at /2, /4, /8, /16 and /32, not pretrained.

    Args:
        name: timm's name.

    Raises:
        ValueError: Its features have other scales.
    """

    def __init__(self, name: str) -> None:
        import timm  # takes two seconds, and is not needed with a cached graph

        super().__init__()
        self.body: nn.Module = timm.create_model(name, features_only=True, pretrained=False)
        features: Any = self.body.feature_info
        if features.reduction() != [2, 4, 8, 16, 32]:
            raise ValueError(f"{name} has features at {features.reduction()}, not at 2, 4, 8, 16 and 32")
        self.channels: tuple[int, ...] = tuple(features.channels())
        """Channels of the five feature maps, finest first."""
        self.strides = (2, 1, 1, 1, 1)
        """Strides of the decoder's lateral convolutions that reduce the maps to the sides it needs."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W), H and W multiples of 32, to 5 × (B, c, h, w), finest first."""
        features: list[Tensor] = self.body(x)
        return features


Backbone = Swin | TimmFeatures


def make_backbone(name: str) -> Backbone:
    """Build ``swin_b``, or a network of timm by its name there."""
    return Swin() if name == "swin_b" else TimmFeatures(name)
