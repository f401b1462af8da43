"""Prepare a batch for refinement in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import Frames, Probabilities, to_host
from pipeline.models.refiners.refine_tiles import BLOCK_PX, CPU_TILE_PX, Refinement, Refiner, make_refinement
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.types import Pixels, Placed

TILE_PX = {"cpu": CPU_TILE_PX, "cuda": 2048}
"""Side of a tile. A GPU needs few large operations."""


def unknown_blocks(unknown: Tensor) -> Tensor:
    """Return which blocks of ``BLOCK_PX`` squared have unknown pixels: (N, S, S) float32 to (N, s, s) bool."""
    return F.max_pool2d(unknown[:, None], BLOCK_PX, BLOCK_PX, ceil_mode=True)[:, 0] > 0


@torch.inference_mode()
def prepare_refinements(
    refiner: Refiner | None, images: Sequence[Pixels], placements: Sequence[Placed], frames: Frames, p: Probabilities
) -> list[Refinement | None]:
    """Prepare a batch for refinement. None for an image without an unknown region, or no larger than its frame.

    The host waits for the device once, to learn which blocks have unknown pixels.

    Args:
        refiner: None returns None for every image.
        images: (H, W, 3) uint8 each.
        placements: The part of each image that fills its frame.
        frames: (N, S, S, 3) uint8, the base's input.
        p: The base's alpha on the frames.
    """
    if refiner is None:
        return [None] * len(images)
    unknown_maps = find_unknown(p)
    (blocks,) = to_host(unknown_blocks(unknown_maps))
    planes = zip(p, torch.as_tensor(frames), unknown_maps, strict=True)
    return [
        make_refinement(refiner, *one, tile_px=TILE_PX[p.device.type], share=torch.from_numpy)
        for one in zip(images, placements, planes, blocks, strict=True)
    ]
