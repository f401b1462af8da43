"""Corrupt photos to test robustness, as ImageNet-C does, while the ground truth stays valid.

Real photos give too few failures to evaluate a quality score, and no failures of some kinds. The object keeps its place and
size in each corruption, so mask, box and everything else that is known of the item stay valid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.backdrop import extract_object, render_on_backdrop
from pipeline.imaging.multilevel import broadcast_alpha
from pipeline.imaging.rle import HALF
from pipeline.types import Mask, Pixels

Kind = Literal["blur", "low_light", "jpeg", "noise", "distractor", "shadow", "reflection"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PLACING_PX, PLACING_ROUNDS = 96, 6
"""Size of the map on which a distractor's place is searched, and number of attempts, each with a smaller distractor."""

MAX_OUTSIDE = 0.2
"""Share of a distractor that may be outside the picture."""


def tag(kind: Kind) -> str:
    """Return the evaluation's tag for this kind."""
    return kind if kind in ("shadow", "reflection") else f"corruption:{kind}"


def corrupt(photo: Pixels, ground_truth: Mask, kind: Kind, seed: int, other: tuple[Pixels, Mask] | None = None) -> Pixels:
    """Corrupt a photo. The same arguments always return the same pixels.

    Args:
        photo: (H, W, 3), upright.
        ground_truth: (H, W), the photo's mask.
        kind: What to do.
        seed: Decides the strength and the places, 0 or more.
        other: Another photo and its ground truth; its object becomes the ``distractor``.

    Raises:
        ValueError: The photo has no object, or no room for the addition.
    """
    if not (ground_truth >= HALF).any():
        raise ValueError("the ground truth has no object")
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    if kind == "shadow" or kind == "reflection":  # noqa: PLR1714  narrows the type for mypy
        return render_on_backdrop(photo, ground_truth, kind, rng)
    if kind == "distractor":
        if other is None:
            raise ValueError("there is no other photo to take an object from")
        return _add_distractor(photo, ground_truth, *other, rng)
    return _DEGRADATIONS[kind](photo, rng)


def _blur(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Blur by defocus or motion: a disc or a line of 1 to 5 % of the longer side."""
    reach = max(1, round(max(photo.shape) * rng.uniform(0.005, 0.025)))
    side = 2 * reach + 1
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.float32)
    if rng.random() < 0.5:
        kernel[:] = 0
        angle = rng.uniform(0, np.pi)
        x, y = round(reach * np.cos(angle)), round(reach * np.sin(angle))
        cv2.line(kernel, (reach - x, reach - y), (reach + x, reach + y), 1.0)
    return np.asarray(cv2.filter2D(photo, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT), np.uint8)


def _darken(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Simulate a small sensor at 2 to 8 % of the light: shot noise, read noise, a lamp's colour."""
    lamp = rng.uniform(0.02, 0.08) * np.array([1.0, rng.uniform(0.75, 1), rng.uniform(0.5, 1)])
    light, well = (photo / 255.0) ** 2.2 * lamp, rng.uniform(800, 3000)
    sensed = rng.poisson(light * well) / well + rng.normal(0, 0.002, photo.shape)
    return _round(255 * np.clip(sensed, 0, 1) ** (1 / 2.2))


def _compress(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Compress as JPEG of quality 4 to 30 with 4:2:0 colours, at up to half of the size."""
    height, width = photo.shape[:2]
    scale = rng.uniform(0.5, 1.0)
    small = cv2.resize(photo, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, round(_log_uniform(4, 30, rng))]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(".jpg", small[..., ::-1], options)
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.ascontiguousarray(cv2.resize(decoded, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def _add_noise(photo: Pixels, rng: np.random.Generator) -> Pixels:
    """Add grain of 6 to 50 levels, one or a few pixels wide."""
    grain = rng.standard_normal(photo.shape).astype(np.float32)
    if rng.random() < 0.5:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), rng.uniform(0.6, 1.5)), np.float32)
    return _round(photo + grain * np.float32(_log_uniform(6, 50, rng) / grain.std()))


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw log-uniformly: some results are nearly as good as the photo, few are hopeless."""
    return float(low * (high / low) ** rng.random())


_DEGRADATIONS: dict[str, Callable[[Pixels, np.random.Generator], Pixels]] = {
    "blur": _blur,
    "low_light": _darken,
    "jpeg": _compress,
    "noise": _add_noise,
}


def _add_distractor(photo: Pixels, mask: Mask, other_photo: Pixels, other_mask: Mask, rng: np.random.Generator) -> Pixels:
    """Add the other photo's object beside this one, at about its size, without overlap."""
    x, y, width, height = cv2.boundingRect((other_mask >= HALF).astype(np.uint8))
    if not width:
        raise ValueError("the other photo has no object")
    alpha, colours = extract_object(other_photo, other_mask)
    cut = np.dstack([colours * broadcast_alpha(alpha), alpha])[y : y + height, x : x + width]
    ratio = np.count_nonzero(mask >= HALF) * rng.uniform(0.6, 1.3) / np.count_nonzero(other_mask >= HALF)
    scale = min(np.sqrt(ratio), *(side / cut_side for side, cut_side in zip(mask.shape, (height, width), strict=True)))
    for _ in range(PLACING_ROUNDS):
        size = max(1, round(width * scale)), max(1, round(height * scale))
        layer = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.float32)
        place = _find_free_place(mask, layer[..., 3], rng)
        if place is not None:
            return _paste(photo, layer, place)
        scale *= 0.8
    raise ValueError("there is no room beside the object for another one")


def _find_free_place(mask: Mask, alpha: npt.NDArray[Any], rng: np.random.Generator) -> tuple[int, int] | None:
    """Return a row and column at which a layer does not touch the object; None if there is none."""
    scale = min(1.0, PLACING_PX / max(mask.shape))

    def small(plane: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        size = max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale))
        return (cv2.resize(plane, size, interpolation=cv2.INTER_AREA) > 0).astype(np.float32)

    taken = cv2.dilate(small((mask > 0).astype(np.float32)), np.ones((5, 5), np.uint8))
    shape = small((alpha > 0).astype(np.float32))
    outside = [int(MAX_OUTSIDE * side) for side in shape.shape]
    room = cv2.copyMakeBorder(taken, outside[0], outside[0], outside[1], outside[1], cv2.BORDER_CONSTANT, value=0)
    if room.shape[0] < shape.shape[0] or room.shape[1] < shape.shape[1]:
        return None
    free = np.argwhere(cv2.matchTemplate(room, shape, cv2.TM_CCORR) < 0.5)
    if not len(free):
        return None
    row, column = free[int(rng.integers(len(free)))]
    return round((row - outside[0]) / scale), round((column - outside[1]) / scale)


def _paste(photo: Pixels, layer: npt.NDArray[np.float32], place: tuple[int, int]) -> Pixels:
    """Composite premultiplied colours and opacity, (h, w, 4), over a photo, clipped to it."""
    (top, left), (height, width) = place, photo.shape[:2]
    part = layer[max(0, -top) : height - top, max(0, -left) : width - left]
    result = photo.copy()
    under = result[max(0, top) :, max(0, left) :][: part.shape[0], : part.shape[1]]
    under[:] = _round(part[..., :3] + under * (1 - part[..., 3:]))
    return result


def _round(levels: npt.NDArray[np.floating[Any]]) -> Pixels:
    return np.asarray(np.clip(np.rint(levels), 0, 255), np.uint8)
