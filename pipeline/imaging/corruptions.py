"""Copies of a photo that are harder to cut out, of which the true mask is still the photo's own.

For the evaluation of a quality score: real photos give too few failures to judge it by, and some kinds of them not at all. The
object keeps its place and size in every copy, so truth, box and all else that is known of the item stay true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.multilevel import broadcast_alpha
from pipeline.imaging.rle import HALF
from pipeline.imaging.studio import cut, on_sweep
from pipeline.types import Mask, Pixels

Kind = Literal["blur", "low_light", "jpeg", "noise", "distractor", "shadow", "reflection"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PLACING_PX, PLACES = 96, 6
"""A distractor's place is looked for on a map of this size, and so often, smaller each time."""

OUTSIDE = 0.2
"""So much of a distractor may lie beyond the picture's border."""


def tag(kind: Kind) -> str:
    """What an evaluation calls these copies."""
    return kind if kind in ("shadow", "reflection") else f"harder:{kind}"


def make_copy(photo: Pixels, truth: Mask, kind: Kind, seed: int, other: tuple[Pixels, Mask] | None = None) -> Pixels:
    """The same arguments always give the same pixels.

    Args:
        photo: (H, W, 3), upright.
        truth: (H, W), its true mask.
        seed: how strong it gets, and where things lie; 0 and above.
        other: another photo and its true mask, whose object is a ``distractor``'s.

    Raises:
        ValueError: the photo has no object, or no room for what the kind adds to it.
    """
    if not (truth >= HALF).any():
        raise ValueError("the true mask has no object")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "shadow" or kind == "reflection":  # noqa: PLR1714  what mypy understands
        return on_sweep(photo, truth, kind, rng)
    if kind == "distractor":
        if other is None:
            raise ValueError("there is no other photo to take an object from")
        return _distracted(photo, truth, *other, rng)
    return _WORSE[kind](photo, rng)


def _blurred(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Out of focus, or moved: a disc or a line of 1 to 5 % of the longer side."""
    reach = max(1, round(max(photo.shape) * rng.uniform(0.005, 0.025)))
    side = 2 * reach + 1
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.float32)
    if rng.random() < 0.5:
        kernel[:] = 0
        turn = rng.uniform(0, np.pi)
        by = round(reach * np.cos(turn)), round(reach * np.sin(turn))
        cv2.line(kernel, (reach - by[0], reach - by[1]), (reach + by[0], reach + by[1]), 1.0)
    return np.asarray(cv2.filter2D(photo, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.uint8)


def _dark(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """As a small sensor sees it with 2 to 8 % of the light: shot noise, read noise, a lamp's colour."""
    lamp = rng.uniform(0.02, 0.08) * np.array([1.0, rng.uniform(0.75, 1), rng.uniform(0.5, 1)])
    light, well = (photo / 255.0) ** 2.2 * lamp, rng.uniform(800, 3000)
    seen = rng.poisson(light * well) / well + rng.normal(0, 0.002, photo.shape)
    return _rounded(255 * np.clip(seen, 0, 1) ** (1 / 2.2))


def _squeezed(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """JPEG of quality 4 to 30, with halved colours, at up to half of the size."""
    height, width = photo.shape[:2]
    scale = rng.uniform(0.5, 1.0)
    small = cv2.resize(photo, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, round(_between(4, 30, rng))]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(".jpg", small[..., ::-1], options)
    again = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.ascontiguousarray(cv2.resize(again, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _noisy(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Grain of 6 to 50 levels, of one pixel or a few."""
    grain = rng.standard_normal(photo.shape).astype(np.float32)
    if rng.random() < 0.5:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.6, 1.5)), np.float32)
    return _rounded(photo + grain * np.float32(_between(6, 50, rng) / grain.std()))


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    """Every factor as often as every other: some copies are nearly as good as the photo, few are hopeless."""
    return float(low * (high / low) ** rng.random())


_WORSE: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "blur": _blurred,
    "low_light": _dark,
    "jpeg": _squeezed,
    "noise": _noisy,
}


def _distracted(photo: Pixels, truth: Mask, theirs: Pixels, their_truth: Mask, rng: np.random.Generator) -> Pixels:
    """The other photo's object beside this one's, at about its size, never over it."""
    x, y, width, height = cv2.boundingRect((their_truth >= HALF).astype(np.uint8))
    if not width:
        raise ValueError("the other photo has no object")
    alpha, colours = cut(theirs, their_truth)
    laid = np.dstack([colours * broadcast_alpha(alpha), alpha])[y : y + height, x : x + width]
    ratio = np.count_nonzero(truth >= HALF) * rng.uniform(0.6, 1.3) / np.count_nonzero(their_truth >= HALF)
    scale = min(np.sqrt(ratio), *(mine / its for mine, its in zip(truth.shape, (height, width), strict=True)))
    for _ in range(PLACES):
        size = max(1, round(width * scale)), max(1, round(height * scale))
        placed = np.asarray(cv2.resize(laid, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.float32)
        place = _free_place(truth, placed[..., 3], rng)
        if place is not None:
            return _laid_on(photo, placed, place)
        scale *= 0.8
    raise ValueError("there is no room beside the object for another one")


def _free_place(truth: Mask, alpha: npt.NDArray[Any], rng: np.random.Generator) -> tuple[int, int] | None:
    """Row and column, in pixels, at which an object may lie without touching the true one; None if there is none."""
    scale = min(1.0, PLACING_PX / max(truth.shape))

    def small(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        size = max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale))
        return (cv2.resize(plane, size, interpolation=cv2.INTER_AREA) > 0).astype(np.float32)

    taken = cv2.dilate(small((truth > 0).astype(np.float32)), np.ones((5, 5), np.uint8))
    shape = small((alpha > 0).astype(np.float32))
    beyond = [int(OUTSIDE * side) for side in shape.shape]
    room = cv2.copyMakeBorder(taken, beyond[0], beyond[0], beyond[1], beyond[1], cv2.BORDER_CONSTANT, value=0)
    if room.shape[0] < shape.shape[0] or room.shape[1] < shape.shape[1]:
        return None
    free = np.argwhere(cv2.matchTemplate(room, shape, cv2.TM_CCORR) < 0.5)
    if not len(free):
        return None
    row, column = free[int(rng.integers(len(free)))]
    return round((row - beyond[0]) / scale), round((column - beyond[1]) / scale)


def _laid_on(photo: Pixels, laid: npt.NDArray[np.float32], place: tuple[int, int]) -> Pixels:
    """Premultiplied colours and opacity, (h, w, 4), over a photo, cut to it."""
    (top, left), (height, width) = place, photo.shape[:2]
    part = laid[max(0, -top) : height - top, max(0, -left) : width - left]
    made = photo.copy()
    under = made[max(0, top) :, max(0, left) :][: part.shape[0], : part.shape[1]]
    under[:] = _rounded(part[..., :3] + under * (1 - part[..., 3:]))
    return made


def _rounded(levels: npt.NDArray[np.floating[Any]]) -> Pixels:
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)
