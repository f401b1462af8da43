"""Refine alpha tile by tile, in the unknown region only, so that an image of any size fits into memory.

Outside the unknown region the base model's alpha is unchanged, to the bit. Planes are NumPy arrays or PyTorch tensors; nothing
here depends on which. A refiner computes one tile.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.imaging.trimap import near_contour
from pipeline.types import Alpha, Pixels, Placed, Region

CPU_TILE_PX = 384
"""Side of a tile on a CPU, where a tile's data should fit the cores' caches."""

BLOCK_PX = 8
"""Frame pixels per side of the blocks that are searched for unknown pixels."""

MAX_UNKNOWN_SHARE, MAX_UNKNOWN_PX = 0.3, 3_000_000
"""An unknown region is too wide to refine all of it if it covers more than this share of the frame and this many pixels of the
image. In the bundled photos it covers 3 to 11 % of the frame."""

NEAR_PX = 6
"""Radius around contours, in frame pixels, that is refined in a region that is too wide; as ``unknown_region.CONTOUR_PX``."""

Array = Any
"""A NumPy array or a PyTorch tensor."""

Each = Callable[..., Iterable[Any]]
"""``map``, or something like it."""


class Tile(NamedTuple):
    """The input of a refiner: some rows and columns of an image, and the frame's cells that they are interpolated from."""

    image: Array
    """(H, W, 3) uint8."""
    frame: Array
    """(h, w, 3) uint8: the base's input."""
    p: Array
    """(h, w) float32 in [0, 1]: the base's alpha."""
    unknown: Array
    """(h, w) float32, from ``find_unknown``."""
    down: Array
    """(H,) float32: the centre of each image row, in rows of ``p`` from the centre of its first row."""
    across: Array
    """(W,) float32: likewise, columns."""
    scale: Array
    """(1,) float64: image pixels per frame pixel, along a side."""


class Refiner(Protocol):
    """A method that computes alpha at the image's own size."""

    @property
    def halo_cells(self) -> int:
        """Frame pixels that it needs around a tile."""
        ...

    @property
    def halo_px(self) -> int:
        """Image pixels that it needs around a tile."""
        ...

    @property
    def step_px(self) -> int:
        """Number that a tile's height and width are multiples of."""
        ...

    def __call__(self, tile: Tile) -> tuple[Array, Array]:
        """Return a tile's alpha in [0, 1] and its weight in [0, 1], ``unknown`` enlarged: (H, W) float32 each."""
        ...


class Axis(NamedTuple):
    """Some rows (or columns) of an image, and the frame's rows that they are interpolated from."""

    pixels: slice
    """Rows of the image."""
    cells: slice
    """Rows of the frame: those between which the image's rows lie, and the halo."""
    positions: npt.NDArray[np.float32]
    """(n,): the centre of each image row, in frame rows from the centre of the first cell."""


def axis(pixels: slice, start: int, end: int, side: int, halo: int) -> Axis:
    """Map pixels to a frame of ``side`` that shows ``start`` to ``end``; beyond the frame, its border is repeated."""
    low, high, positions = _interpolate(pixels.start, pixels.stop, start, end, side, halo)
    return Axis(pixels, slice(low, high), positions)


@functools.lru_cache(maxsize=512)
def _interpolate(first: int, last: int, start: int, end: int, side: int, halo: int) -> tuple[int, int, npt.NDArray[np.float32]]:
    position = np.clip((np.arange(first, last) + 0.5 - start) * (side / (end - start)) - 0.5, 0, side - 1)
    low, high = max(int(position[0]) - halo, 0), min(int(position[-1]) + 2 + halo, side)
    return low, high, (position - low).astype(np.float32)


class View(NamedTuple):
    """An image and the base model's result."""

    image: Pixels
    """(H, W, 3) uint8."""
    region: Region
    """The part of the image that fills the frame; may reach past the image."""
    inside: Region
    """The part of the region that lies on the image."""
    p: Array
    """(S, S) float32 in [0, 1]: the base's alpha on the frame."""
    frame: Array
    """(S, S, 3) uint8: the base's input."""
    unknown: Array
    """(S, S) float32, from ``find_unknown``."""

    @property
    def scale(self) -> float:
        """Image pixels per frame pixel, along a side."""
        x0, y0, x1, y1 = self.region
        return float(((x1 - x0) * (y1 - y0)) ** 0.5 / len(self.p))

    def axis(self, pixels: slice, dim: int, halo: int) -> Axis:
        """Map some rows (``dim`` 1) or columns (0) of the image to the frame, with a halo in frame pixels."""
        return axis(pixels, self.region[dim], self.region[dim + 2], len(self.p), halo)

    def tile(self, rows: slice, columns: slice, halo_cells: int, step_px: int = 1) -> Tile:
        """Return some rows and columns of the image; the last ones are repeated up to a multiple of ``step_px``."""
        down, across = self.axis(rows, 1, halo_cells), self.axis(columns, 0, halo_cells)
        more = [(0, -len(one.positions) % step_px) for one in (down, across)]
        image = self.image[rows, columns]
        if any(added for _, added in more):
            image = np.pad(image, (*more, (0, 0)), mode="edge")
        positions = [np.pad(one.positions, added, mode="edge") for one, added in zip((down, across), more, strict=True)]
        frame, p, unknown = (plane[down.cells, across.cells] for plane in (self.frame, self.p, self.unknown))
        return Tile(image, frame, p, unknown, positions[0], positions[1], np.array([self.scale]))


def view_of(image: Pixels, p: Array, frame: Array, unknown: Array) -> View:
    """Return the view of an image that fills the frame."""
    whole = (0, 0, image.shape[1], image.shape[0])
    return View(image, whole, whole, p, frame, unknown)


@dataclass
class Refinement:
    """The refinement of one image."""

    view: View
    refiner: Refiner
    blocks: npt.NDArray[np.bool_]
    """(S / BLOCK_PX, S / BLOCK_PX): whether a block has unknown pixels."""
    tile_px: int = CPU_TILE_PX
    """Side of a tile."""
    share: Callable[[Alpha], Array] = np.asarray
    """Returns an array of the host as the refiner's kind of array, without a copy."""
    each: Each = map
    """Computes the tiles; a pool's ``map`` computes several at a time."""
    changed: Array = field(init=False, default=0.0)
    """The sum of |change| of alpha over all refined pixels so far; a scalar of the refiner's kind of array."""
    weight: Array = field(init=False, default=0.0)
    """The sum of the weights, likewise."""

    @property
    def change(self) -> Array:
        """Mean |change| of alpha in the unknown region so far, in [0, 1]; 0.0 if no tile was refined."""
        return self.changed if isinstance(self.weight, float) else self.changed / self.weight.clip(1)

    def refine_all(self, alpha: Alpha) -> None:
        """Refine all rows, in place, on the host."""
        self.refine_tiles(self.share(alpha), slice(0, len(alpha)))

    def refine_tiles(self, part: Array, rows: slice) -> None:
        """Refine some rows of the enlarged alpha, in place.

        Args:
            part: (rows, W) float32: the base's alpha, enlarged, in the columns of ``view.inside``.
            rows: Row numbers, counted from the first row of ``view.inside``.
        """
        left, top, right, _ = self.view.inside
        first = rows.start + top
        tiles = [
            self._crop_to_unknown(slice(y, min(y + self.tile_px, rows.stop + top)), slice(x, min(x + self.tile_px, right)))
            for y in range(first, rows.stop + top, self.tile_px)
            for x in range(left, right, self.tile_px)
        ]
        work = ((part[_shift(tile[0], first), _shift(tile[1], left)], *tile) for tile in tiles if tile is not None)
        for changed, weight in self.each(self._refine_tile, work):
            self.changed += changed
            self.weight += weight

    def _refine_tile(self, tile: tuple[Array, slice, slice]) -> tuple[Array, Array]:
        """Refine some rows and columns of the image, whose base's alpha is changed in place.

        Returns:
            The sums of |change| and of the weights.
        """
        alpha, rows, columns = tile
        refiner, outer = self.refiner, (self._with_halo(rows, 1), self._with_halo(columns, 0))
        within = _shift(rows, outer[0].start), _shift(columns, outer[1].start)
        refined, weight = (plane[within] for plane in refiner(self.view.tile(*outer, refiner.halo_cells, refiner.step_px)))
        # Not lerp, whose rounding may change pixels of weight 0.
        change = weight * (refined - alpha)
        alpha += change
        return abs(change).sum(), weight.sum()

    def _with_halo(self, pixels: slice, dim: int) -> slice:
        """Add the halo to some rows (``dim`` 1) or columns (0), aligned to ``step_px`` and clipped to the frame's region."""
        first, last = self.view.inside[dim], self.view.inside[dim + 2]
        halo, step = self.refiner.halo_px, self.refiner.step_px
        start = (pixels.start - first - halo) // step * step
        stop = -(-(pixels.stop - first + halo) // step) * step
        return slice(first + max(start, 0), min(first + stop, last))

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


def make_refinement(
    refiner: Refiner,
    image: Pixels,
    placed: Placed,
    planes: Sequence[Array],
    blocks: npt.NDArray[np.bool_],
    tile_px: int = CPU_TILE_PX,
    share: Callable[[Alpha], Array] = np.asarray,
    each: Each = map,
) -> Refinement | None:
    """Prepare an image for refinement; None without an unknown region, and for an image no larger than its frame.

    Of an unknown region that is too wide, only what is near contours is refined, and nothing if that is too wide, too.

    Args:
        refiner: The method.
        image: (H, W, 3) uint8.
        placed: The part of the image that fills the frame.
        planes: ``View.p``, ``View.frame`` and ``View.unknown``.
        blocks: As ``Refinement.blocks``.
        tile_px: As ``Refinement.tile_px``.
        share: As ``Refinement.share``.
        each: As ``Refinement.each``.
    """
    view = View(image, placed.region, placed.inside, *planes)
    if view.scale <= 1:
        return None
    # Every unknown pixel is in a block, so in most images the planes, which may be on a GPU, need not be looked at.
    if _is_too_wide(view, blocks) and _is_too_wide(view, (unknown := _on_host(view.unknown)) > 0):
        unknown = unknown * near_contour(_on_host(view.p), NEAR_PX)
        if _is_too_wide(view, unknown > 0):
            return None
        kept = unknown if isinstance(view.unknown, np.ndarray) else view.unknown.new_tensor(unknown)
        view, blocks = view._replace(unknown=kept), _blocks_of(unknown)
    return Refinement(view, refiner, blocks, tile_px, share, each) if bool(blocks.any()) else None


def _is_too_wide(view: View, hit: npt.NDArray[np.bool_]) -> bool:
    """Return whether the marked part of the frame, of any resolution, is too wide to be refined."""
    x0, y0, x1, y1 = view.region
    part = float(hit.mean())
    return part > MAX_UNKNOWN_SHARE and part * (x1 - x0) * (y1 - y0) > MAX_UNKNOWN_PX


def _blocks_of(unknown: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return which blocks have unknown pixels: (S, S) to (S / BLOCK_PX, S / BLOCK_PX), rounded up."""
    starts = range(0, len(unknown), BLOCK_PX)
    return np.asarray(np.maximum.reduceat(np.maximum.reduceat(unknown, starts, 0), starts, 1) > 0)


def _on_host(plane: Array) -> npt.NDArray[np.float32]:
    return plane if isinstance(plane, np.ndarray) else np.asarray(plane.cpu())
