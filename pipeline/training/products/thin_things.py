"""Draw thin things with exact alpha: wheels, ladders, tripods, clothes racks, wire baskets."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.products.brands import colour
from pipeline.training.products.layers import Layer

SCALE = 4
"""Lines are drawn so many times larger and then averaged."""

Draw = Callable[[npt.NDArray[np.uint8], np.random.Generator, int], None]
"""Draws white lines on a black square, with lines of this width in pixels."""


def draw_thin(rng: np.random.Generator, side: int) -> Layer:
    """Draw a thing of a kind of ``KINDS`` (side, side, 4), premultiplied, in one colour that is lighter on one side."""
    canvas = np.zeros((side * SCALE, side * SCALE), np.uint8)
    KINDS[int(rng.integers(len(KINDS)))](canvas, rng, max(2, round(len(canvas) * rng.uniform(0.006, 0.014))))
    turn = cv2.getRotationMatrix2D((len(canvas) / 2, len(canvas) / 2), float(rng.normal(0, 8)), 1.0)
    turned = cv2.warpAffine(canvas, turn, (len(canvas), len(canvas)))
    alpha = np.asarray(cv2.resize(turned, (side, side), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)
    tint = np.array(colour(rng.uniform(), rng.uniform(0, 0.8), rng.uniform(0.1, 0.95)), np.float32) / 255
    light = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.6, 1), side, dtype=np.float32)[None, :, None]
    return np.dstack([tint * light * alpha[..., None], alpha]).astype(np.float32)


def _line(canvas: npt.NDArray[np.uint8], width: int, *points: tuple[float, float]) -> None:
    """Draw a line through points that are shares of the side."""
    places = np.rint(np.array(points) * len(canvas)).astype(np.int32)
    cv2.polylines(canvas, [places.reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA)


def _wheel(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, width: int) -> None:
    middle, radius = len(canvas) // 2, int(0.44 * len(canvas))
    cv2.circle(canvas, (middle, middle), radius, 255, 2 * width, cv2.LINE_AA)
    cv2.circle(canvas, (middle, middle), 3 * width, 255, -1, cv2.LINE_AA)
    for angle in np.linspace(0, 2 * np.pi, int(rng.integers(12, 30)), endpoint=False):
        _line(canvas, max(1, width // 2), (0.5, 0.5), (0.5 + 0.44 * float(np.cos(angle)), 0.5 + 0.44 * float(np.sin(angle))))


def _ladder(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, width: int) -> None:
    top, foot = rng.uniform(0.08, 0.16), rng.uniform(0.16, 0.28)
    for way in (-1, 1):
        _line(canvas, width, (0.5 + way * top, 0.05), (0.5 + way * foot, 0.95))
    for y in np.linspace(0.12, 0.88, int(rng.integers(5, 11))):
        half = float(top + (foot - top) * (y - 0.05) / 0.9)
        _line(canvas, width, (0.5 - half, float(y)), (0.5 + half, float(y)))


def _tripod(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, width: int) -> None:
    knee = float(rng.uniform(0.2, 0.4))
    _line(canvas, 2 * width, (0.5, 0.05), (0.5, knee + 0.25))
    for foot in (rng.uniform(0.08, 0.2), rng.uniform(0.45, 0.6), rng.uniform(0.8, 0.92)):
        _line(canvas, width, (0.5, knee), (float(foot), 0.95))
        _line(canvas, max(1, width // 2), (0.5, knee + 0.25), (float(0.5 + (foot - 0.5) * 0.6), knee + 0.6 * (0.95 - knee)))


def _rack(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, width: int) -> None:
    left, right, top = (float(value) for value in (rng.uniform(0.06, 0.2), rng.uniform(0.8, 0.94), rng.uniform(0.06, 0.2)))
    _line(canvas, width, (left, 0.95), (left, top), (right, top), (right, 0.95))
    for x in (left, right):
        _line(canvas, width, (x - 0.05, 0.95), (x + 0.05, 0.95))
    for x in np.linspace(left + 0.1, right - 0.1, int(rng.integers(2, 5))):
        reach, drop = float(rng.uniform(0.08, 0.12)), top + 0.1
        _line(canvas, max(1, width // 2), (float(x), top), (float(x), drop - 0.05), (float(x) - reach, drop + 0.05))
        _line(
            canvas,
            max(1, width // 2),
            (float(x), drop - 0.05),
            (float(x) + reach, drop + 0.05),
            (float(x) - reach, drop + 0.05),
        )


def _basket(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, width: int) -> None:
    lean = float(rng.uniform(0.03, 0.12))
    for share in np.linspace(0, 1, int(rng.integers(6, 12))):
        x = 0.1 + 0.8 * float(share)
        _line(canvas, max(1, width // 2), (x, 0.35), (x + lean * (1 - 2 * float(share)), 0.9))
    for share in np.linspace(0, 1, int(rng.integers(4, 8))):
        y = 0.35 + 0.55 * float(share)
        _line(
            canvas,
            width if share in (0, 1) else max(1, width // 2),
            (0.1 + lean * float(share), y),
            (0.9 - lean * float(share), y),
        )
    middle, axes = (len(canvas) // 2, int(0.35 * len(canvas))), (int(0.3 * len(canvas)), int(0.28 * len(canvas)))
    cv2.ellipse(canvas, middle, axes, 0, 180, 360, 255, width, cv2.LINE_AA)


KINDS: tuple[Draw, ...] = (_wheel, _ladder, _tripod, _rack, _basket)
