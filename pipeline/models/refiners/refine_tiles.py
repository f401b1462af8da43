"""Refine alpha tile by tile, in the unknown region only, so that an image of any size fits into memory.

Outside the unknown region the base model's alpha is unchanged, to the bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import Frames, Probabilities, to_host
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.types import Alpha, Pixels, Placed, Region

TILE_PX = {"cpu": 384, "cuda": 2048}
"""Side of a tile. On a CPU a tile's data should fit the cores' caches; a GPU needs few large operations."""

BLOCK_PX = 8
"""Frame pixels per side of the blocks that are searched for unknown pixels."""


class View(NamedTuple):
    """An image and the base model's result."""

    image: Pixels
    """(H, W, 3) uint8."""
    region: Region
    """The part of the image that fills the frame; may reach past the image."""
    inside: Region
    """The part of the region that lies on the image."""
    p: Tensor
    """(S, S) float32 in [0, 1]: the base's alpha on the frame."""
    frame: Tensor
    """(S, S, 3) uint8 on the same device: the base's input."""
    unknown: Tensor
    """(S, S) float32, from ``find_unknown``."""

    @property
    def scale(self) -> float:
        """Image pixels per frame pixel, along a side."""
        x0, y0, x1, y1 = self.region
        return float(((x1 - x0) * (y1 - y0)) ** 0.5 / len(self.p))

    def axis(self, pixels: slice, dim: int, halo: int) -> Axis:
        """Map some rows (``dim`` 1) or columns (0) of the image to the frame, with a halo in frame pixels."""
        return axis(pixels, self.region[dim], self.region[dim + 2], len(self.p), halo, self.p.device)


def view_of(image: Pixels, p: Tensor, frame: Tensor, unknown: Tensor) -> View:
    """Return the view of an image that fills the frame."""
    whole = (0, 0, image.shape[1], image.shape[0])
    return View(image, whole, whole, p, frame, unknown)


class Axis(NamedTuple):
    """Some rows (or columns) of an image, and the frame's rows that they are interpolated from."""

    pixels: slice
    """Rows of the image."""
    cells: slice
    """Rows of the frame: those between which the image's rows lie, and the halo."""
    positions: Tensor
    """(n,) float32: the centre of each image row, in frame rows from the centre of the first cell."""

    def to_pixels(self) -> Tensor:
        """Return the matrix (n, m) float32 of linear interpolation from m cells to n pixels, as OpenCV's INTER_LINEAR."""
        cells = torch.arange(self.cells.stop - self.cells.start, device=self.positions.device)
        return (1 - (self.positions[:, None] - cells).abs()).clamp_min_(0)


def axis(pixels: slice, start: int, end: int, side: int, halo: int, device: torch.device) -> Axis:
    """Map pixels to a frame of ``side`` that shows ``start`` to ``end``; beyond the frame, its border is repeated."""
    low, high, positions = _interpolate(pixels.start, pixels.stop, start, end, side, halo)
    return Axis(pixels, slice(low, high), torch.from_numpy(positions).to(device, non_blocking=True))


@functools.lru_cache(maxsize=512)
def _interpolate(first: int, last: int, start: int, end: int, side: int, halo: int) -> tuple[int, int, npt.NDArray[np.float32]]:
    position = np.clip((np.arange(first, last) + 0.5 - start) * (side / (end - start)) - 0.5, 0, side - 1)
    low, high = max(int(position[0]) - halo, 0), min(int(position[-1]) + 2 + halo, side)
    return low, high, (position - low).astype(np.float32)


def enlarge(plane: Tensor, down: Axis, across: Axis) -> Tensor:
    """Interpolate a plane of the frame (S, S) at some pixels of the image: (h, w), bilinear."""
    return down.to_pixels() @ plane[down.cells, across.cells] @ across.to_pixels().T


Predict = Callable[[Axis, Axis], Tensor]
"""Returns the alpha of some rows and columns of an image, (h, w) float32 on the view's device; it is clamped to [0, 1]."""


class Refiner(Protocol):
    """A method that computes alpha at the image's own size."""

    @property
    def halo_cells(self) -> int:
        """Frame pixels that it needs around a tile."""
        ...

    def prepare(self, view: View) -> Predict:
        """Prepare an image and return the function that predicts its alpha, tile by tile."""
        ...


@dataclass
class Refinement:
    """The refinement of one image."""

    view: View
    predict: Predict
    blocks: npt.NDArray[np.bool_]
    """(S / BLOCK_PX, S / BLOCK_PX): whether a block has unknown pixels."""
    halo_cells: int
    totals: Tensor = field(init=False)
    """(2,) float32: the sum of |change| of alpha, and the sum of the weights, over all refined pixels."""

    def __post_init__(self) -> None:
        self.totals = torch.zeros(2, device=self.view.p.device)

    @property
    def change(self) -> Tensor:
        """Mean |change| of alpha in the unknown region so far, in [0, 1], on the view's device."""
        return self.totals[0] / self.totals[1].clamp_min(1)

    def refine_all(self, alpha: Alpha) -> None:
        """Refine all rows, in place, on the host."""
        self.refine_tiles(torch.from_numpy(alpha), slice(0, len(alpha)))

    @torch.inference_mode()
    def refine_tiles(self, part: Tensor, rows: slice) -> None:
        """Refine some rows of the enlarged alpha, in place.

        Args:
            part: (rows, W) float32: the base's alpha, enlarged, in the columns of ``view.inside``.
            rows: Row numbers, counted from the first row of ``view.inside``.
        """
        left, top, right, _ = self.view.inside
        side = TILE_PX[part.device.type]
        for start_y in range(rows.start + top, rows.stop + top, side):
            for start_x in range(left, right, side):
                tile = slice(start_y, min(start_y + side, rows.stop + top)), slice(start_x, min(start_x + side, right))
                crop = self._crop_to_unknown(*tile)
                if crop is None:
                    continue
                down, across = (self.view.axis(pixels, dim, self.halo_cells) for pixels, dim in zip(crop, (1, 0), strict=True))
                alpha = part[_shift(crop[0], rows.start + top), _shift(crop[1], left)]
                weight = enlarge(self.view.unknown, down, across)
                predicted = self.predict(down, across).clamp_(0, 1)
                # Not lerp_, whose rounding may change pixels of weight 0.
                change = weight * (predicted - alpha)
                alpha += change
                self.totals += torch.stack([change.abs().sum(), weight.sum()])

    def _crop_to_unknown(self, rows: slice, columns: slice) -> tuple[slice, slice] | None:
        """Return the part of a tile that may have unknown pixels; None if there is none."""
        down, across = (self.view.axis(pixels, dim, 0).cells for pixels, dim in ((rows, 1), (columns, 0)))
        first = down.start // BLOCK_PX, across.start // BLOCK_PX
        hit = self.blocks[first[0] : -(-down.stop // BLOCK_PX), first[1] : -(-across.stop // BLOCK_PX)]
        crop = []
        for pixels, dim, any_hit, offset in ((rows, 1, hit.any(1), first[0]), (columns, 0, hit.any(0), first[1])):
            where = np.flatnonzero(any_hit) + offset
            if not len(where):
                return None
            start, end = self.view.region[dim], self.view.region[dim + 2]
            pitch = (end - start) / len(self.view.p)
            # A pixel is interpolated from the cells between whose centres it lies.
            low = math.floor(start + (where[0] * BLOCK_PX - 0.5) * pitch - 0.5)
            high = math.ceil(start + ((where[-1] + 1) * BLOCK_PX + 0.5) * pitch - 0.5) + 1
            crop.append(slice(max(low, pixels.start), min(high, pixels.stop)))
        return crop[0], crop[1]


def _shift(pixels: slice, first: int) -> slice:
    return slice(pixels.start - first, pixels.stop - first)


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
    (blocks,) = to_host(F.max_pool2d(unknown_maps[:, None], BLOCK_PX, BLOCK_PX, ceil_mode=True)[:, 0] > 0)
    planes = zip(p, torch.as_tensor(frames), unknown_maps, strict=True)
    refinements: list[Refinement | None] = []
    for image, placed, of_frame, hit in zip(images, placements, planes, blocks, strict=True):
        view = View(image, placed.region, placed.inside, *of_frame)
        wanted = view.scale > 1 and bool(hit.any())
        refinements.append(Refinement(view, refiner.prepare(view), hit, refiner.halo_cells) if wanted else None)
    return refinements
