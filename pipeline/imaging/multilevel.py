"""Estimate foreground and background colours on a coarse grid, and apply them at full size.

Multi-level estimation by Germer, Uelwer, Conrad and Harmeling, "Fast Multi-Level Foreground Estimation" (ICPR 2020, arXiv
2006.14970): with opacity α and image I, find smooth colours F and B with αF + (1-α)B ≈ I, from one pixel up to the full size.
PyMatting's ``estimate_foreground_ml`` is the same method. Both colours are smooth, so the levels end at ``GRID_PX`` here, and
``apply_colours`` distributes the residual at full size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Alpha, Mask, Pixels

OPAQUE = 254
"""From this level on a pixel shows the object alone."""

GRID_PX = 208
"""Longer side of the last level. Twice the size reduces the error by a twelfth and takes four times as long."""

SMOOTH, SMOOTH_AT_EDGES = 2e-3, 0.1
"""Weight of the difference between neighbours, and its increase per step of opacity between them."""

SMALL_PX, SMALL_ROUNDS, ROUNDS = 32, 4, 3
"""Levels up to this side take four rounds, larger ones three: they start from nearly the right colours."""

TOGETHER_PX = 2**14
"""Pixels of a level up to which all channels are processed together. Those of a larger one would leave a core's cache."""

STRIP_PX = 2**20
"""Pixels per strip, so that a large picture needs little memory."""

CHUNK_PX = 2**14

Planes = npt.NDArray[np.float32]
"""(channels, h, w)."""


class Colours(NamedTuple):
    """Foreground and background, (h, w, 4) float32 in [0, 255] each. The fourth channel is padding.

    OpenCV samples four channels in half the time of three.
    """

    foreground: npt.NDArray[np.float32]
    background: npt.NDArray[np.float32]


def estimate_colours(image: Pixels, mask: Mask) -> Colours:
    """Return both colours of an image (H, W, 3) and a mask (H, W), uint8, at the size of the last level."""
    scale = min(1.0, GRID_PX / max(mask.shape))
    size = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    colours = _shrink(image, size).astype(np.float32)
    alpha = _shrink(mask, size).astype(np.float32).reshape(size[::-1])
    alpha *= np.float32(1 / 255)
    estimate, planes = _initial_colours(colours, alpha), cv2.merge([*cv2.split(colours), alpha])
    for height, width in _levels(alpha.shape):
        level = (width, height)
        estimate = np.stack([_enlarge(plane, level) for plane in estimate])
        *observed, shares = cv2.split(np.asarray(cv2.resize(planes, level, interpolation=cv2.INTER_AREA), np.float32))
        estimate = _relax(estimate, np.stack(observed), np.asarray(shares, np.float32))
    return Colours(cv2.merge([*estimate[:3], estimate[0]]), cv2.merge([*estimate[3:], estimate[3]]))


def apply_colours(colours: Colours, image: Pixels, mask: Mask) -> Pixels:
    """Return the image (H, W, 3) with F + α(I - αF - (1-α)B) where the mask (H, W), uint8, is partly transparent."""
    out = image.copy()
    height, width = mask.shape
    scale = np.array([colours.foreground.shape[1] / width, colours.foreground.shape[0] / height], np.float32)
    strip = max(1, STRIP_PX // width)
    for top in range(0, height, strip):
        rows = slice(top, top + strip)
        partly: npt.NDArray[np.int32] | None = cv2.findNonZero(cv2.inRange(mask[rows], 1, OPAQUE - 1))  # type: ignore[assignment]
        if partly is None:
            continue
        points = partly.reshape(-1, 2)
        flat = [array[rows].reshape(-1, *array.shape[2:]) for array in (image, mask, out)]
        for start in range(0, len(points), CHUNK_PX):
            _apply_at(points[start : start + CHUNK_PX], top, width, scale, colours, *flat)
    return out


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
    """Write the pixels at points (N, 2), x and y below ``top``. ``image``, ``mask`` and ``out`` are flat from there on."""
    indices = points[:, 1].astype(np.intp) * width + points[:, 0]
    where = points.astype(np.float32)
    where *= scale
    where += np.array([0.5, top + 0.5], np.float32) * scale - np.float32(0.5)
    foreground, background = (_sample(one, where) for one in colours)
    alpha = mask.take(indices).astype(np.float32)
    alpha *= np.float32(1 / 255)
    observed = np.zeros_like(foreground)
    observed[0, :, :3] = image.take(indices, axis=0)
    out[indices] = cv2.convertScaleAbs(_unmix(observed, alpha[None], foreground, background))[0, :, :3]


def _unmix(colours: npt.NDArray[np.float32], shares: Alpha, foreground: Any, background: Any) -> npt.NDArray[np.float32]:
    """Return F + α(I - αF - (1-α)B) = F + α(I - B + α(B - F)) in [0, 255]; I, F, B (H, W, channels), α (H, W)."""
    alpha = broadcast_alpha(shares, colours.shape[2])
    result: npt.NDArray[np.float32] = background - foreground  # in place from here: new memory costs more than the arithmetic
    result *= alpha
    result += colours
    result -= background
    result *= alpha
    result += foreground
    return np.clip(result, 0, 255, out=result)


def broadcast_alpha(shares: npt.NDArray[Any], channels: int = 3) -> npt.NDArray[Any]:
    """Repeat opacity (H, W) for each channel. Arithmetic on (H, W, 3) is several times as fast as with (H, W, 1)."""
    return np.asarray(cv2.merge([shares] * channels)).reshape(*shares.shape, channels)


def _sample(colours: npt.NDArray[np.float32], where: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sample (h, w, 4) bilinearly between pixel centres at x and y (N, 2): (1, N, 4)."""
    no_second_map: Any = None
    sampled = cv2.remap(colours, where[None], no_second_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32)


def _initial_colours(colours: npt.NDArray[np.float32], alpha: Alpha) -> Planes:
    """Return the mean colours of the most and of the least opaque pixels, (6, 1, 1), weighted by opacity to the power of 8."""
    weights = [np.square(np.square(np.square(sure))) + np.float32(1e-6) for sure in (alpha, 1 - alpha)]
    means = [np.average(colours.reshape(-1, 3), axis=0, weights=one.ravel()) for one in weights]
    return np.array(means, np.float32).reshape(6, 1, 1)


def _levels(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (height, width) from about two pixels to the shape, doubling the longer side each time."""
    count = max(1, math.ceil(math.log2(max(shape))))
    return [(max(1, round(shape[0] ** (k / count))), max(1, round(shape[1] ** (k / count)))) for k in range(1, count + 1)]


def _relax(estimate: Planes, observed: Planes, alpha: Alpha) -> Planes:
    """Run the rounds of least squares at one level, all pixels at once (Jacobi iteration).

    A pixel's F and B minimise (αF + (1-α)B - I)² + Σ w(|F - F'|² + |B - B'|²) over its neighbours F', B'. With F̂, B̂ their
    weighted means, W the weights' sum and r = I - αF̂ - (1-α)B̂, that is F = F̂ + αr/(W + α² + (1-α)²), and B likewise.
    """
    beside, below = (np.abs(np.diff(alpha, axis=axis)) * SMOOTH_AT_EDGES + SMOOTH for axis in (1, 0))
    right = np.zeros_like(alpha)  # none beyond the last column, so that planes can be processed as one row
    right[:, :-1] = beside
    weights = np.full_like(alpha, 1e-12)  # a single pixel has no neighbours
    weights[:, 1:] += beside
    weights[:, :-1] += beside
    weights[1:] += below
    weights[:-1] += below
    rest = 1 - alpha
    share = 1 / (weights + alpha**2 + rest**2)
    planes = right, below, 1 / weights, alpha, rest, alpha * share, rest * share
    level = _Level(*(np.asarray(plane, np.float32).ravel() for plane in planes))
    rounds = SMALL_ROUNDS if max(alpha.shape) <= SMALL_PX else ROUNDS
    flat, goal = estimate.reshape(2, 3, -1), observed.reshape(3, -1)
    for channels in _groups(alpha.size):
        flat[:, channels] = _relax_channels(flat[:, channels], goal[channels], level, alpha.shape[1], rounds)
    return estimate


class _Level(NamedTuple):
    """Planes (h·w,) that all channels and rounds of a level share."""

    right: npt.NDArray[np.float32]
    """Weights between a pixel and the next one of its row."""
    below: npt.NDArray[np.float32]
    """Weights between a pixel and the one below, without the last row."""
    inverse: npt.NDArray[np.float32]
    """1 / W."""
    alpha: npt.NDArray[np.float32]
    rest: npt.NDArray[np.float32]
    to_foreground: npt.NDArray[np.float32]
    to_background: npt.NDArray[np.float32]


def _groups(pixels: int) -> list[slice]:
    """Return the channels to process together: all of a small level, which is fewer calls, and one of a large one."""
    return [slice(0, 3)] if pixels <= TOGETHER_PX else [slice(channel, channel + 1) for channel in range(3)]


def _relax_channels(estimate: Planes, observed: Planes, level: _Level, width: int, rounds: int) -> Planes:
    """Return the estimate (2, channels, h·w) of F and B after these rounds. It is overwritten."""
    means, products = np.empty_like(estimate), np.empty_like(estimate)
    residual, term = np.empty_like(observed), np.empty_like(observed)
    row, column, last = products[..., :-1], products[..., : estimate.shape[2] - width], level.right[:-1]
    for _ in range(rounds):
        np.multiply(estimate, np.float32(1e-12), out=means)
        means[..., 1:] += np.multiply(estimate[..., :-1], last, out=row)
        means[..., :-1] += np.multiply(estimate[..., 1:], last, out=row)
        means[..., width:] += np.multiply(estimate[..., :-width], level.below, out=column)
        means[..., :-width] += np.multiply(estimate[..., width:], level.below, out=column)
        means *= level.inverse
        np.subtract(observed, np.multiply(level.alpha, means[0], out=term), out=residual)
        residual -= np.multiply(level.rest, means[1], out=term)
        means[0] += np.multiply(level.to_foreground, residual, out=term)
        means[1] += np.multiply(level.to_background, residual, out=term)
        np.clip(means, 0, 255, out=means)
        estimate, means = means, estimate
    return estimate


def _shrink(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return area means at (width, height), halving as long as the sides are even: OpenCV is fast at halves."""
    height, width = image.shape[:2]
    while width >= 2 * size[0] and height >= 2 * size[1] and height % 2 == width % 2 == 0:
        width, height = width // 2, height // 2
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _enlarge(plane: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize one channel to (width, height), bilinearly between pixel centres."""
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR), np.float32)
