"""The modules in PyTorch that prebuilt graphs are exported from: the functions of the PyTorch pass, put together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.estimator import Estimator, combine_logits, make_input
from pipeline.models.refiners.cgm import Cgm, refine_cgm, tile_inputs
from pipeline.models.refiners.guided import refine_guided
from pipeline.models.refiners.prepare import unknown_blocks
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.models.sharpen import sharpen
from pipeline.models.signals import dice, measure_signals


class Measure(nn.Module):
    """The measurements of one frame."""

    def forward(self, logits: Tensor, frames: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        """Measure a frame.

        Args:
            logits: (1, S, S) float32.
            frames: (1, S, S, 3) uint8.
            boxes: (1, 4) float32; see ``measure_signals``.

        Returns:
            The results of ``measure_signals``, their sigmoid (1, S, S), and the estimator's input.
        """
        p = logits.sigmoid()
        return *measure_signals(logits, p, boxes, frames), p, make_input(p, frames)


class Sharpen(nn.Module):
    """Alpha for ``recipe.sharpen`` other than 1."""

    def forward(self, logits: Tensor, factor: Tensor) -> Tensor:
        """Map logits (1, S, S) and ``recipe.sharpen`` (1,) to alpha (1, S, S)."""
        return sharpen(logits, factor).sigmoid()


class Unknown(nn.Module):
    """The unknown region of a frame."""

    def forward(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Map alpha (1, S, S) to the results of ``find_unknown`` and ``unknown_blocks``."""
        unknown = find_unknown(alpha)
        return unknown, unknown_blocks(unknown)


class Estimate(nn.Module):
    """The estimator with the mean of its predictions."""

    def __init__(self, network: Estimator) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map ``make_input``'s (1, 4, SIDE_PX, SIDE_PX) to the expected Dice (1,)."""
        return combine_logits(self.network(x))


class FlipDice(nn.Module):
    """The signal ``flip_dice``."""

    def forward(self, logits: Tensor, mirrored: Tensor) -> Tensor:
        """Map the logits of a frame and of its mirror image, (1, S, S) each, to their Dice (1,)."""
        return dice(logits > 0, mirrored.flip(2) > 0)


class GuidedTile(nn.Module):
    """The refiner ``guided``."""

    def forward(
        self, image: Tensor, frame: Tensor, p: Tensor, unknown: Tensor, down: Tensor, across: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute a tile; see ``Tile`` and ``Refiner``."""
        return refine_guided(image, frame, p, unknown, down, across, scale)


class CgmTile(nn.Module):
    """The refiner ``cgm``."""

    def __init__(self, network: Cgm) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, image: Tensor, frame: Tensor, p: Tensor, unknown: Tensor, down: Tensor, across: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute a tile; see ``Tile`` and ``Refiner``."""
        return refine_cgm(self.network, tile_inputs(image, frame, p, unknown, down, across, scale), torch.float32)
