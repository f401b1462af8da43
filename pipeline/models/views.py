"""Look at a frame in several views, and average the logits (test-time augmentation).

A network errs differently on the mirrored photo and at another scale, so the mean of several passes is nearer to the truth.
Every view is a frame of the model's own size, so any model can take it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config.recipe import Recipe
from pipeline.config.view import View
from pipeline.imaging.frame import Placement
from pipeline.types import Pixels

FADE_SHARE = 1 / 8
"""Width of the border in which a view that shows only the middle counts less and less, as a share of its side."""

Array = Any
"""A NumPy array or a PyTorch tensor."""

Share = Callable[[npt.NDArray[Any]], Array]
"""Returns an array of the host as the caller's kind of array."""


class Framing(Protocol):
    """Makes frames: ``HostFrames`` or ``DeviceFrames``."""

    def frames(self, images: Sequence[Pixels], placements: Sequence[Placement]) -> Array:
        """Return (N, S, S, 3) uint8."""
        ...


class Looks(NamedTuple):
    """The logits of a batch, (N, S, S) float32 each."""

    mean: Array
    """Over the frame and all views."""
    plain: Array
    """Of the frame alone."""
    mirrored: Array | None
    """Of the mirrored frame, not mirrored back; None without the view ``flip``."""


class _Geometry(NamedTuple):
    """A view's pixels. L is the side of the picture that the view is cut out of."""

    framing: Framing | None
    """Makes pictures of side L; None for the frame itself."""
    rows: Array
    columns: Array
    """(S,) int64: the picture's row (column) in each row (column) of the view."""
    down: Array | None
    across: Array | None
    """(S, S) float32: rows (columns) of the view's logits to rows (columns) of the frame's. None for a view of scale 1."""
    weight: Array | None
    """(S, S) float32 in [0, 1]: how much the view counts at each pixel of the frame. None for 1 everywhere."""


class Views:
    """The views of a recipe.

    **The definition.** S is ``recipe.frame_px``. The view ``scale:f`` resizes the frame's part of the photo to L = round(f · S)
    pixels a side, with ``recipe.frame_resize``, instead of S. The model sees the middle S of it. Where L is smaller than S, the
    picture is mirrored about its outermost pixels to fill the frame. ``flip`` mirrors the frame left to right;
    ``flip+scale:f`` mirrors the view ``scale:f``.

    A view's logits are mirrored back and resized to the frame's pixels: linearly between pixel centres, and with the triangle
    widened by f where f > 1, as Pillow's bilinear filter does. The result is the weighted mean of the frame's logits (weight 1)
    and those of all views. A view weighs 1, except where f > 1: it then shows only the middle, its weight is 0 beyond, and
    grows linearly to 1 over ``FADE_SHARE`` of its side, so that no seam appears.

    MVANet's own scheme averages the same way over the frame and its mirror image at scales 0.75, 1 and 1.125 or 1.25. There,
    the network itself takes a larger or smaller input. Here its input keeps its size, which fixed graphs need.

    Args:
        recipe: Its ``views``, ``frame_px`` and what ``make_framing`` uses.
        make_framing: Returns the framing of a recipe with another ``frame_px``.
        share_index: Prepares indices of frames.
        share: Prepares arrays that logits are multiplied with.
    """

    def __init__(
        self,
        recipe: Recipe,
        make_framing: Callable[[Recipe], Framing],
        share_index: Share = np.asarray,
        share: Share = np.asarray,
    ) -> None:
        self._geometry = [_geometry(view, recipe, make_framing, share_index, share) for view in recipe.parsed_views]

    def look(
        self, model: Callable[[Array], Array], frames: Array, images: Sequence[Pixels], placements: Sequence[Placement]
    ) -> Looks:
        """Run the model on frames and their views.

        Args:
            model: Maps (N, S, S, 3) uint8 to logits (N, S, S) float32.
            frames: (N, S, S, 3) uint8: the frames of the images.
            images: (H, W, 3) uint8 each.
            placements: The part of each image that fills its frame.
        """
        plain = model(frames)
        total, weights, mirrored = plain, 1.0, None
        for geometry in self._geometry:
            pictures = frames if geometry.framing is None else geometry.framing.frames(images, placements)
            logits = model(pictures[:, geometry.rows][:, :, geometry.columns])
            if geometry.down is None or geometry.across is None:
                mirrored = logits
                logits = logits[:, :, geometry.columns]
            else:
                logits = geometry.down @ logits @ geometry.across
            weight = 1.0 if geometry.weight is None else geometry.weight
            total, weights = total + weight * logits, weights + weight
        return Looks(total / weights, plain, mirrored) if self._geometry else Looks(plain, plain, None)


def _geometry(
    view: View, recipe: Recipe, make_framing: Callable[[Recipe], Framing], share_index: Share, share: Share
) -> _Geometry:
    side = recipe.frame_px
    large = round(view.scale * side)
    rows = _shown(large, side)
    columns = rows[::-1].copy() if view.flip else rows
    if view.scale == 1:
        return _Geometry(None, share_index(rows), share_index(columns), None, None, None)
    down = _back(large, side)
    across = (down[:, ::-1] if view.flip else down).T.copy()
    framing = make_framing(recipe.model_copy(update={"frame_px": large}))
    seen = _fade(large, side)
    weight = None if seen.min() == 1 else share(np.outer(seen, seen).astype(np.float32))
    return _Geometry(framing, share_index(rows), share_index(columns), share(down), share(across), weight)


def _shown(large: int, side: int) -> npt.NDArray[np.int64]:
    """Return the picture's row in each row of a view, (side,), mirrored beyond its first and last row."""
    at = np.abs(np.arange(side) + (large - side) // 2)
    return np.where(at < large, at, 2 * (large - 1) - at)


def _centres(large: int, side: int) -> npt.NDArray[np.float64]:
    """Return where in a view the centre of each row of the frame is, (side,), in rows of the view from its first edge."""
    return np.asarray((np.arange(side) + 0.5) * (large / side) - (large - side) // 2, np.float64)


def _back(large: int, side: int) -> npt.NDArray[np.float32]:
    """Return the weights that make rows of the frame from rows of a view, (side, side); each row's sum is 1."""
    centres = _centres(large, side).clip(0.5, side - 0.5)
    distance = np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(1.0, large / side)
    weights = np.maximum(1 - distance, 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _fade(large: int, side: int) -> npt.NDArray[np.float64]:
    """Return the weight of a view at each row of the frame, (side,) in [0, 1]."""
    if large <= side:
        return np.ones(side)
    centres = _centres(large, side)
    return (np.minimum(centres, side - centres) / (FADE_SHARE * side)).clip(0, 1)
