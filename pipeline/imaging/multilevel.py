"""Colours of foreground and background by multi-level estimation, at a small size; and the object's at every pixel from them.

After Germer, Uelwer, Conrad and Harmeling, "Fast Multi-Level Foreground Estimation" (ICPR 2020, arXiv 2006.14970): with α
the opacity and I the image, find F and B that explain the image and differ little between neighbours, from a picture of one
pixel to the full one. They work at full size; both colours are smooth, though, so here the levels end at ``GRID_PX``, and what
the image has that they lack is shared out at full size (``apply``). PyMatting's ``estimate_foreground_ml`` is the same method.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Alpha, Mask, Pixels

GRID_PX = 208
"""Longer side of the last level. Twice of it brought the colours a twelfth closer to the truth, for four times the time."""

SMOOTH, SMOOTH_AT_EDGES = 2e-3, 0.1
"""How much neighbours are held together, and how much more per step of opacity between them."""

SMALL_PX, SMALL_ROUNDS, ROUNDS = 32, 4, 3
"""Levels up to this side are computed in four rounds, larger ones in three: they start from nearly the right colours."""

SURER = 8
"""Power of the opacity by which pixels count in the first colours."""

STRIP_PX = 2**20
"""Pixels that are worked on at a time, so that a large picture needs little memory."""

CHUNK_PX = 2**14

Planes = npt.NDArray[np.float32]
"""(channels, h, w)."""


class Colours(NamedTuple):
    """Foreground and background, (h, w, 4) float32 each, black 0, white 255; the fourth channel means nothing.

    OpenCV samples four channels in half the time of three.
    """

    near: npt.NDArray[np.float32]
    far: npt.NDArray[np.float32]


def estimate_colours(image: Pixels, mask: Mask) -> Colours:
    """Both colours at the size of the last level: (H, W, 3) uint8 and (H, W) uint8 to ``Colours``."""
    scale = min(1.0, GRID_PX / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    colours = _shrunk(image, size).astype(np.float32)
    alpha = _shrunk(mask, size).astype(np.float32).reshape(size[::-1])
    alpha *= np.float32(1 / 255)
    found = _first(colours, alpha)
    for height, width in _levels(alpha.shape):
        level = (width, height)
        near_and_far = np.stack([_resized(plane, level, cv2.INTER_LINEAR) for plane in found])
        seen = np.stack([_resized(plane, level, cv2.INTER_AREA) for plane in cv2.split(colours)])
        found = _settled(near_and_far, seen, _resized(alpha, level, cv2.INTER_AREA))
    return Colours(cv2.merge([*found[:3], found[0]]), cv2.merge([*found[3:], found[3]]))


def apply(colours: Colours, image: Pixels, mask: Mask, band: tuple[int, int], out: Pixels) -> None:
    """The object's colours where the mask is within the band, F + α(I - αF - (1-α)B), into ``out``.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) uint8.
        band: its lowest and its highest level.
        out: (H, W, 3) uint8; pixels outside the band stay as they are.
    """
    height, width = mask.shape
    scale = np.array([colours.near.shape[1] / width, colours.near.shape[0] / height], np.float32)
    strip = max(1, STRIP_PX // width)
    for top in range(0, height, strip):
        part = slice(top, top + strip)
        found: npt.NDArray[np.int32] | None = cv2.findNonZero(cv2.inRange(mask[part], *band))  # type: ignore[assignment]
        if found is None:
            continue
        points = found.reshape(-1, 2)
        sources = [array[part].reshape(-1, *array.shape[2:]) for array in (image, mask, out)]
        for start in range(0, len(points), CHUNK_PX):
            _apply_at(points[start : start + CHUNK_PX], top, width, scale, colours, *sources)


def _apply_at(
    points: npt.NDArray[np.int32],
    top: int,
    width: int,
    scale: npt.NDArray[np.float32],
    colours: Colours,
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
) -> None:
    """At some pixels (N, 2), as x and y below ``top``; ``image``, ``mask`` and ``out`` are flat from there on."""
    at = points[:, 1].astype(np.intp) * width + points[:, 0]
    where = points.astype(np.float32)
    where *= scale
    where += np.array([0.5, top + 0.5], np.float32) * scale - np.float32(0.5)
    near, far = (_sampled(one, where) for one in colours)
    alpha = mask.take(at).astype(np.float32)
    alpha *= np.float32(1 / 255)
    seen = np.zeros_like(near)
    seen[0, :, :3] = image.take(at, axis=0)
    out[at] = cv2.convertScaleAbs(unmixed(seen, alpha[None], near, far))[0, :, :3]


def unmixed(colours: npt.NDArray[np.float32], shares: Alpha, near: Any, far: Any) -> npt.NDArray[np.float32]:
    """F + α(I - αF - (1-α)B) = F + α(I - B + α(B - F)), kept in [0, 255]; I, F, B (H, W, channels), α (H, W)."""
    alpha = broadcast_alpha(shares, colours.shape[2])
    found: npt.NDArray[np.float32] = far - near  # all else in place: memory that is new costs more than the arithmetic
    found *= alpha
    found += colours
    found -= far
    found *= alpha
    found += near
    return np.clip(found, 0, 255, out=found)


def broadcast_alpha(shares: npt.NDArray[Any], channels: int = 3) -> npt.NDArray[Any]:
    """Opacity beside every colour: the arithmetic on (H, W, 3) runs several times faster than with (H, W, 1)."""
    return np.asarray(cv2.merge([shares] * channels)).reshape(*shares.shape, channels)


def _sampled(colours: npt.NDArray[np.float32], where: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bilinear between pixel centres: (h, w, 4) at x and y (N, 2) gives (1, N, 4)."""
    nowhere: Any = None
    return np.asarray(cv2.remap(colours, where[None], nowhere, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _first(colours: npt.NDArray[np.float32], alpha: Alpha) -> Planes:
    """(6, 1, 1): the mean colours of what is the most opaque, and the least."""
    weights = [sure**SURER + np.float32(1e-6) for sure in (alpha, 1 - alpha)]
    means = [np.average(colours.reshape(-1, 3), axis=0, weights=one.ravel()) for one in weights]
    return np.array(means, np.float32).reshape(6, 1, 1)


def _levels(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(height, width) from about two pixels to the shape, the longer side doubled each time."""
    count = max(1, math.ceil(math.log2(max(shape))))
    return [(max(1, round(shape[0] ** (k / count))), max(1, round(shape[1] ** (k / count)))) for k in range(1, count + 1)]


def _settled(near_and_far: Planes, seen: Planes, alpha: Alpha) -> Planes:
    """Rounds of the least squares at one level, all pixels at once.

    A pixel's F and B minimise (αF + (1-α)B - I)² + Σ w(|F - F'|² + |B - B'|²) over its neighbours F', B'. With F̂, B̂ their
    weighted means, W the weights' sum and r = I - αF̂ - (1-α)B̂, that is F = F̂ + αr/(W + α² + (1-α)²), and B likewise.
    """
    broadcast_alpha, below = (np.abs(np.diff(alpha, axis=axis)) * SMOOTH_AT_EDGES + SMOOTH for axis in (1, 0))
    weights = np.full_like(alpha, 1e-12)  # a single pixel has no neighbours
    weights[:, 1:] += broadcast_alpha
    weights[:, :-1] += broadcast_alpha
    weights[1:] += below
    weights[:-1] += below
    rest = 1 - alpha
    share = 1 / (weights + alpha**2 + rest**2)
    to_near, to_far, inverse = alpha * share, rest * share, 1 / weights
    for _ in range(SMALL_ROUNDS if max(alpha.shape) <= SMALL_PX else ROUNDS):
        means = near_and_far * np.float32(1e-12)
        means[:, :, 1:] += near_and_far[:, :, :-1] * broadcast_alpha
        means[:, :, :-1] += near_and_far[:, :, 1:] * broadcast_alpha
        means[:, 1:] += near_and_far[:, :-1] * below
        means[:, :-1] += near_and_far[:, 1:] * below
        means *= inverse
        left = seen - alpha * means[:3]
        left -= rest * means[3:]
        means[:3] += to_near * left
        means[3:] += to_far * left
        near_and_far = np.clip(means, 0, 255, out=means)
    return near_and_far


def _shrunk(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Area means at (width, height), halved as long as that goes evenly: OpenCV has a quick way for halves."""
    height, width = image.shape[:2]
    while width >= 2 * size[0] and height >= 2 * size[1] and height % 2 == width % 2 == 0:
        width, height = width // 2, height // 2
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _resized(plane: npt.NDArray[Any], size: tuple[int, int], interpolation: int) -> npt.NDArray[np.float32]:
    """One channel at (width, height)."""
    return np.asarray(cv2.resize(plane, size, interpolation=interpolation), np.float32).reshape(size[::-1])
