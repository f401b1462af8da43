"""Make and check frames, and make masks, on the host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.recipe import Recipe
from pipeline.imaging.frame import Placement, make_frame, restore, to_mask
from pipeline.models.refiners.refine_tiles import Refinement
from pipeline.types import Alpha, Mask, Pixels


def check_frames(frames: Any, side: int) -> None:
    """Check that frames, an array or a tensor, are (N, side, side, 3) uint8.

    Raises:
        ValueError: They are not: a bug of the caller.
    """
    dtype = str(frames.dtype).removeprefix("torch.")
    if dtype != "uint8" or frames.ndim != 4 or not len(frames) or frames.shape[1:] != (side, side, 3):
        raise ValueError(f"frames must be (N, {side}, {side}, 3) uint8, not {tuple(frames.shape)} {dtype}")


class HostFrames:
    """Convert images to frames and back with Pillow and OpenCV, which is fastest on a CPU. On a GPU: ``DeviceFrames``."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def frames(self, images: Sequence[Pixels], placements: Sequence[Placement]) -> npt.NDArray[np.uint8]:
        """Return the frames (N, S, S, 3) uint8 of images (H, W, 3) uint8 of any sizes."""
        return np.stack([make_frame(image, placed, self.recipe) for image, placed in zip(images, placements, strict=True)])

    def masks(
        self, alphas: Iterable[Alpha], placements: Sequence[Placement], refinements: Sequence[Refinement | None]
    ) -> list[Mask]:
        """Return masks (H, W) uint8 at the images' sizes from alpha (S, S) float32 in [0, 1], refined if possible."""
        return [
            to_mask(restore(alpha, placed, self.recipe, None if refinement is None else refinement.refine_all))
            for alpha, placed, refinement in zip(alphas, placements, refinements, strict=True)
        ]
