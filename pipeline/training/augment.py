"""Change a frame as light, lens, sensor and file format would. The ground truth stays the same."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Pixels

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Luma of ITU-R BT.601."""


def jitter_colours(frame: Pixels, rng: np.random.Generator, strength: float) -> Pixels:
    """Change gain, colour cast, contrast, gamma and saturation of a frame (S, S, 3) uint8. Strength 0 changes nothing."""
    x = frame.astype(np.float32) / np.float32(255)
    if rng.random() < 0.8:
        gain = 1 + strength * rng.uniform(-0.25, 0.25) + strength * rng.uniform(-0.06, 0.06, 3)  # common gain, and a cast
        contrast = 1 + strength * rng.uniform(-0.25, 0.25)
        x = ((x - 0.5) * contrast + 0.5) * gain.astype(np.float32)
    if rng.random() < 0.3:
        x = np.clip(x, 0, 1) ** np.float32(2 ** (strength * rng.uniform(-0.6, 0.6)))
    if rng.random() < 0.4:
        saturation = max(0.0, 1 + strength * rng.uniform(-0.6, 0.4)) if rng.random() < 0.9 else 0.0
        grey = (x @ GREY)[..., None]
        x = grey + (x - grey) * np.float32(saturation)
    return _to_uint8(x)


def degrade(frame: Pixels, rng: np.random.Generator) -> Pixels:
    """Apply one of: defocus, motion blur, noise, low light, JPEG compression, enlargement from few pixels."""
    kind = int(rng.integers(6))
    side = frame.shape[0]
    if kind == 0:
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), float(rng.uniform(0.5, 2.0) * side / 512)), np.uint8)
    if kind == 1:
        return _motion_blur(frame, rng)
    if kind == 2:
        return _add_noise(frame, rng, float(rng.uniform(3, 18)))
    if kind == 3:
        dark = (frame.astype(np.float32) / 255) ** np.float32(rng.uniform(1.3, 2.2)) * np.float32(rng.uniform(0.35, 0.8))
        return _add_noise(_to_uint8(dark), rng, float(rng.uniform(2, 10)))
    if kind == 4:
        _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    small_px = max(32, int(side * rng.uniform(0.3, 0.7)))
    small = cv2.resize(frame, (small_px, small_px), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _motion_blur(frame: Pixels, rng: np.random.Generator) -> Pixels:
    length = int(rng.integers(3, max(4, frame.shape[0] // 48)))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), float(rng.uniform(0, 180)), 1)
    kernel = np.asarray(cv2.warpAffine(kernel, turn, (length, length)), np.float32)
    return np.asarray(cv2.filter2D(frame, -1, kernel / max(float(kernel.sum()), 1e-6)), np.uint8)


def _add_noise(frame: Pixels, rng: np.random.Generator, sigma: float) -> Pixels:
    noise = rng.standard_normal(frame.shape, np.float32) * np.float32(sigma)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


def _to_uint8(x: npt.NDArray[np.floating[Any]]) -> Pixels:
    return np.asarray(np.clip(np.rint(x * 255), 0, 255), np.uint8)
