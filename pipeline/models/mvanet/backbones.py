"""Backbones of MVANet: what gives five feature maps of a view.

The decoder wants MVANet's sides: a 4th of the view's twice, an 8th, a 16th and a 32nd of it. Swin has them so. A
convolutional network's first features are at half the view's side: they are what Swin's patches are, colours and edges
that no block has looked at, so they are the first map, and the decoder's lateral convolution halves them on its way in
(``strides``); its other four are the rest.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pipeline.models.mvanet.swin import Swin


class TimmFeatures(nn.Module):
    """A convolutional network of timm's, with features at /2, /4, /8, /16 and /32; without numbers of its own to begin with.

    Args:
        name: timm's.

    Raises:
        ValueError: its features are not at these scales.
    """

    def __init__(self, name: str) -> None:
        import timm  # takes two seconds, which a process with a frozen graph never needs

        super().__init__()
        self.body: nn.Module = timm.create_model(name, features_only=True, pretrained=False)
        features: Any = self.body.feature_info
        if features.reduction() != [2, 4, 8, 16, 32]:
            raise ValueError(f"{name} has features at {features.reduction()}, not at 2, 4, 8, 16 and 32")
        self.channels: tuple[int, ...] = tuple(features.channels())
        """Channels of the five feature maps, finest first."""
        self.strides = (2, 1, 1, 1, 1)
        """What the maps must still be reduced by to have the sides that the decoder wants."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of 32, to 5 × (B, c, h, w), finest first."""
        features: list[Tensor] = self.body(x)
        return features


Backbone = Swin | TimmFeatures


def make_backbone(name: str) -> Backbone:
    """``swin_b``, or a network of timm's by its name there."""
    return Swin() if name == "swin_b" else TimmFeatures(name)
