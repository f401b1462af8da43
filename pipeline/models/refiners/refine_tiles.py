"""A refiner's answer, laid over the enlarged alpha: in the band only, tile by tile, so that an image of any size fits.

A refiner starts on an image (``Refiner.start``) and is then asked for alpha in the tiles that the band touches. Outside the
band the base's alpha stays as it is, to the bit.
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
"""Side of a tile. On a CPU what a tile needs should stay near the cores; a GPU wants few large operations."""

CELL_PX = 8
"""Whether the band touches a tile is known to so many pixels of the frame."""


class View(NamedTuple):
    """An image and what the base made of it."""

    image: Pixels
    """(H, W, 3) uint8."""
    region: Region
    """Which part of the image fills the frame; it may reach past the image."""
    inside: Region
    """The part of the region that is image."""
    p: Tensor
    """(S, S) float32 in [0, 1]: the base's alpha on the frame."""
    frame: Tensor
    """(S, S, 3) uint8 beside it: what the base saw."""
    unknown: Tensor
    """(S, S) float32, as ``find_unknown`` gives it."""

    @property
    def scale(self) -> float:
        """Pixels of the image for one of the frame, along a side."""
        x0, y0, x1, y1 = self.region
        return float(((x1 - x0) * (y1 - y0)) ** 0.5 / len(self.p))

    def axis(self, pixels: slice, dim: int, halo: int) -> Axis:
        """Some of the image's rows (``dim`` 1) or columns (0), and ``halo`` pixels of the frame around them."""
        return axis(pixels, self.region[dim], self.region[dim + 2], len(self.p), halo, self.p.device)


def view_of(image: Pixels, p: Tensor, frame: Tensor, unknown: Tensor) -> View:
    """The view of an image that fills the frame."""
    whole = (0, 0, image.shape[1], image.shape[0])
    return View(image, whole, whole, p, frame, unknown)


class Axis(NamedTuple):
    """Some of an image's rows (or columns), and the frame's that they lie on."""

    pixels: slice
    """Of the image."""
    cells: slice
    """Of the frame: those between which the pixels lie, and some more on both sides."""
    places: Tensor
    """(n,) float32: where each pixel's centre lies among the cells' centres."""

    def to_pixels(self) -> Tensor:
        """(n, m) float32: m values at the cells to n at the pixels, linear between centres, as OpenCV's INTER_LINEAR."""
        cells = torch.arange(self.cells.stop - self.cells.start, device=self.places.device)
        return (1 - (self.places[:, None] - cells).abs()).clamp_min_(0)


def enlarged(plane: Tensor, down: Axis, across: Axis) -> Tensor:
    """What a plane of the frame (S, S) is at some pixels of the image: (h, w), bilinear."""
    return down.to_pixels() @ plane[down.cells, across.cells] @ across.to_pixels().T


Draw = Callable[[Axis, Axis], Tensor]
"""Alpha of some rows and columns of an image: (h, w) float32 on the view's device; beyond [0, 1] counts as the nearer end."""


class Drawing(NamedTuple):
    """A refiner at work on an image."""

    draw: Draw
    note: str | None = None
    """What was done otherwise than the recipe asks, in a sentence for the item's row."""


class Refiner(Protocol):
    """Alpha at the image's own size, where the base was unsure."""

    @property
    def halo_cells(self) -> int:
        """How far around a tile it looks, in pixels of the frame."""
        ...

    def start(self, view: View) -> Drawing:
        """Make ready for an image."""
        ...


@dataclass
class Refinement:
    """One image's band, drawn anew."""

    view: View
    drawing: Drawing
    touched: npt.NDArray[np.bool_]
    """(S / CELL_PX, S / CELL_PX): where the band is."""
    halo_cells: int
    moved: Tensor = field(init=False)
    """(2,) float32: how much alpha was changed, summed over the pixels, and the band's pixels that were drawn."""

    def __post_init__(self) -> None:
        self.moved = torch.zeros(2, device=self.view.p.device)

    @property
    def change(self) -> Tensor:
        """Mean |change| of alpha in the band by what was drawn so far, in [0, 1], on the view's device."""
        return self.moved[0] / self.moved[1].clamp_min(1)

    def whole(self, alpha: Alpha) -> None:
        """The same for all rows at once, on the host."""
        self(torch.from_numpy(alpha), slice(0, len(alpha)))

    @torch.inference_mode()
    def __call__(self, part: Tensor, rows: slice) -> None:
        """Draw the band anew in some rows of the enlarged alpha, in place.

        Args:
            part: (rows, W) float32, the base's alpha, enlarged, of the columns in ``view.inside``.
            rows: counted from the first in ``view.inside``.
        """
        left, top, right, _ = self.view.inside
        side = TILE_PX[part.device.type]
        for start_y in range(rows.start + top, rows.stop + top, side):
            for start_x in range(left, right, side):
                tile = slice(start_y, min(start_y + side, rows.stop + top)), slice(start_x, min(start_x + side, right))
                touched = self._touched(*tile)
                if touched is None:
                    continue
                down, across = (
                    self.view.axis(pixels, dim, self.halo_cells) for pixels, dim in zip(touched, (1, 0), strict=True)
                )
                here = part[_shifted(touched[0], rows.start + top), _shifted(touched[1], left)]
                weight = enlarged(self.view.unknown, down, across)
                drawn = self.drawing.draw(down, across).clamp_(0, 1)
                # Not lerp_: its rounding may move what has the weight 0.
                change = weight * (drawn - here)
                here += change
                self.moved += torch.stack([change.abs().sum(), weight.sum()])

    def _touched(self, rows: slice, columns: slice) -> tuple[slice, slice] | None:
        """The part of a tile of the image where the band may be; None for nothing."""
        down, across = (self.view.axis(pixels, dim, 0).cells for pixels, dim in ((rows, 1), (columns, 0)))
        first = down.start // CELL_PX, across.start // CELL_PX
        hit = self.touched[first[0] : -(-down.stop // CELL_PX), first[1] : -(-across.stop // CELL_PX)]
        found = []
        for pixels, dim, cells, offset in ((rows, 1, hit.any(1), first[0]), (columns, 0, hit.any(0), first[1])):
            where = np.flatnonzero(cells) + offset
            if not len(where):
                return None
            start, end = self.view.region[dim], self.view.region[dim + 2]
            pitch = (end - start) / len(self.view.p)
            # A pixel is made of the cells between whose centres it lies.
            low = math.floor(start + (where[0] * CELL_PX - 0.5) * pitch - 0.5)
            high = math.ceil(start + ((where[-1] + 1) * CELL_PX + 0.5) * pitch - 0.5) + 1
            found.append(slice(max(low, pixels.start), min(high, pixels.stop)))
        return found[0], found[1]


def _shifted(pixels: slice, first: int) -> slice:
    """The same pixels, counted from the first."""
    return slice(pixels.start - first, pixels.stop - first)


@functools.lru_cache(maxsize=512)
def _places(first: int, last: int, start: int, end: int, side: int, halo: int) -> tuple[int, int, npt.NDArray[np.float32]]:
    place = np.clip((np.arange(first, last) + 0.5 - start) * (side / (end - start)) - 0.5, 0, side - 1)
    low, high = max(int(place[0]) - halo, 0), min(int(place[-1]) + 2 + halo, side)
    return low, high, (place - low).astype(np.float32)


def axis(pixels: slice, start: int, end: int, side: int, halo: int, device: torch.device) -> Axis:
    """Some pixels of an image on a frame of ``side`` that shows ``start`` to ``end``; past it, its border is repeated."""
    low, high, places = _places(pixels.start, pixels.stop, start, end, side, halo)
    return Axis(pixels, slice(low, high), torch.from_numpy(places).to(device, non_blocking=True))


@torch.inference_mode()
def prepare_refinements(
    refiner: Refiner | None, images: Sequence[Pixels], placements: Sequence[Placed], frames: Frames, p: Probabilities
) -> list[Refinement | None]:
    """What is to be drawn anew in each image of a batch; None where there is no band, or no more pixels than in the frame.

    The device is waited for once: which tiles the bands touch must be known here.

    Args:
        frames: what the base saw.
    """
    if refiner is None:
        return [None] * len(images)
    unknown_maps = find_unknown(p)
    (touched,) = to_host(F.max_pool2d(unknown_maps[:, None], CELL_PX, CELL_PX, ceil_mode=True)[:, 0] > 0)
    all_maps = zip(p, torch.as_tensor(frames), unknown_maps, strict=True)
    found: list[Refinement | None] = []
    for image, placed, maps, cells in zip(images, placements, all_maps, touched, strict=True):
        view = View(image, placed.region, placed.inside, *maps)
        wanted = view.scale > 1 and bool(cells.any())
        found.append(Refinement(view, refiner.start(view), cells, refiner.halo_cells) if wanted else None)
    return found
