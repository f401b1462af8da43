"""An answer in overlapping tiles, blended into one: for refiners that look at large pieces of an image before any is drawn.

Only tiles that the band touches are made, and any of them may be left out: another refiner's answer shows there, and the two
run into one another as neighbouring tiles do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.models.forward import to_device, to_host
from pipeline.models.refiners.refine_tiles import Axis, Draw, View, enlarged
from pipeline.types import Alpha, Pixels


class Span(NamedTuple):
    """A tile's rows, or its columns."""

    pixels: slice
    """Of the image."""
    weight: npt.NDArray[np.float32]
    """(n,) in [0, 1]: how much the tile counts in each; over all tiles it adds up to 1. At ends that lie within the image it is
    0, so that whatever counts has some of the image around it."""

    def within(self, wanted: slice) -> tuple[slice, slice] | None:
        """What the span and some pixels of the image share: counted from the span's first and from theirs. None for nothing."""
        first, end = max(self.pixels.start, wanted.start), min(self.pixels.stop, wanted.stop)
        if first >= end:
            return None
        return slice(first - self.pixels.start, end - self.pixels.start), slice(first - wanted.start, end - wanted.start)


@dataclass(frozen=True)
class Tile:
    """A piece of an image that the band touches, on the host."""

    rows: Span
    columns: Span
    down: Axis
    across: Axis
    image: Pixels
    """(h, w, 3) uint8."""
    p: Alpha
    """(h, w) float32 in [0, 1]: the base's alpha, enlarged."""
    unknown: npt.NDArray[np.bool_]
    """(h, w): the band."""

    @cached_property
    def share_px(self) -> float:
        """Pixels of the band that are this tile's: over all tiles they add up to the band's."""
        return float(self.rows.weight @ self.unknown.astype(np.float32) @ self.columns.weight)


class Piece(NamedTuple):
    """A tile's answer."""

    rows: Span
    columns: Span
    alpha: Tensor
    """(h, w) float32 in [0, 1] on the view's device."""


def on_host(view: View) -> View:
    """The same view in the host's memory."""
    p, frame, band = (torch.from_numpy(array) for array in to_host(view.p, view.frame, view.band))
    return view._replace(p=p, frame=frame, band=band)


def tiles(view: View, side: int, overlap: int, halo_cells: int) -> Iterator[Tile]:
    """The tiles of an image in whose weighted part some of the band lies, row by row; all have one shape.

    Args:
        view: on the host.
        side: of a tile in pixels, at most.
        overlap: of neighbours in pixels, at least.
        halo_cells: what the axes reach around a tile, in pixels of the frame.
    """
    left, top, right, bottom = view.inside
    all_columns = spans(left, right, side, overlap)
    for rows in spans(top, bottom, side, overlap):
        down = view.axis(rows.pixels, 1, halo_cells)
        for columns in all_columns:
            across = view.axis(columns.pixels, 0, halo_cells)
            if not view.band[down.cells, across.cells].any():
                continue
            p, band = (enlarged(plane, down, across).numpy() for plane in (view.p, view.band))
            unknown = band > 0
            tile = Tile(rows, columns, down, across, view.image[rows.pixels, columns.pixels], p, unknown)
            if tile.share_px > 0:
                yield tile


def spans(start: int, end: int, side: int, overlap: int) -> list[Span]:
    """As few spans of one length, ``side`` at most, as cover ``start`` to ``end``.

    One takes over from another along sin², in the middle half of their least overlap.
    """
    length = end - start
    count = 1 if length <= side else -(-(length - overlap) // (side - overlap))
    side = -(-(length + (count - 1) * overlap) // count)
    firsts = [start + (length - side) * number // max(count - 1, 1) for number in range(count)]
    middle = np.arange(start, end) + 0.5
    seams = [(here + before + side) / 2 for before, here in pairwise(firsts)]
    taken = [np.sin(np.pi / 2 * np.clip((middle - seam) / (overlap / 2) + 0.5, 0, 1)) ** 2 for seam in seams]
    steps = [np.ones(length), *taken, np.zeros(length)]  # what lies beyond each seam; a span is from one to the next
    found = []
    for first, (entered, left) in zip(firsts, pairwise(steps), strict=True):
        inside = slice(first - start, first - start + side)
        found.append(Span(slice(first, first + side), (entered - left)[inside].astype(np.float32)))
    return found


def blend(pieces: Sequence[Piece], otherwise: Draw) -> Draw:
    """What the pieces say, each by its weight, and where none is, another refiner's answer."""

    def draw(down: Axis, across: Axis) -> Tensor:
        drawn = otherwise(down, across).clamp(0, 1)
        said, left = torch.zeros_like(drawn), torch.ones_like(drawn)
        for piece in pieces:
            rows, columns = piece.rows.within(down.pixels), piece.columns.within(across.pixels)
            if rows is None or columns is None:
                continue
            tall, wide = piece.rows.weight[rows[0]], piece.columns.weight[columns[0]]
            weight = to_device(np.outer(tall, wide), drawn.device)
            said[rows[1], columns[1]] += weight * piece.alpha[rows[0], columns[0]]
            left[rows[1], columns[1]] -= weight
        return said + left.clamp_min(0) * drawn

    return draw
