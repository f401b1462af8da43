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

SURE_POWER = 8
"""Power of the opacity by which pixels count in the initial colours."""

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
    estimate = _initial_colours(colours, alpha)
    for height, width in _levels(alpha.shape):
        level = (width, height)
        estimate = np.stack([_resize(plane, level, cv2.INTER_LINEAR) for plane in estimate])
        observed = np.stack([_resize(plane, level, cv2.INTER_AREA) for plane in cv2.split(colours)])
        estimate = _relax(estimate, observed, _resize(alpha, level, cv2.INTER_AREA))
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
    """Return the mean colours of the most and of the least opaque pixels, (6, 1, 1)."""
    weights = [sure**SURE_POWER + np.float32(1e-6) for sure in (alpha, 1 - alpha)]
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
    right, below = (np.abs(np.diff(alpha, axis=axis)) * SMOOTH_AT_EDGES + SMOOTH for axis in (1, 0))
    weights = np.full_like(alpha, 1e-12)  # a single pixel has no neighbours
    weights[:, 1:] += right
    weights[:, :-1] += right
    weights[1:] += below
    weights[:-1] += below
    rest = 1 - alpha
    share = 1 / (weights + alpha**2 + rest**2)
    to_foreground, to_background, inverse = alpha * share, rest * share, 1 / weights
    for _ in range(SMALL_ROUNDS if max(alpha.shape) <= SMALL_PX else ROUNDS):
        means = estimate * np.float32(1e-12)
        means[:, :, 1:] += estimate[:, :, :-1] * right
        means[:, :, :-1] += estimate[:, :, 1:] * right
        means[:, 1:] += estimate[:, :-1] * below
        means[:, :-1] += estimate[:, 1:] * below
        means *= inverse
        residual = observed - alpha * means[:3]
        residual -= rest * means[3:]
        means[:3] += to_foreground * residual
        means[3:] += to_background * residual
        estimate = np.clip(means, 0, 255, out=means)
    return estimate


def _shrink(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return area means at (width, height), halving as long as the sides are even: OpenCV is fast at halves."""
    height, width = image.shape[:2]
    while width >= 2 * size[0] and height >= 2 * size[1] and height % 2 == width % 2 == 0:
        width, height = width // 2, height // 2
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _resize(plane: npt.NDArray[Any], size: tuple[int, int], interpolation: int) -> npt.NDArray[np.float32]:
    """Resize one channel to (width, height)."""
    return np.asarray(cv2.resize(plane, size, interpolation=interpolation), np.float32).reshape(size[::-1])
