"""Draw objects with exact alpha that have what is hard in photos: hair, fur, straps, glass and nets.

Everything is drawn ``SUPERSAMPLING`` times larger with hard edges and then averaged, so alpha is the covered share of a pixel.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Alpha

SUPERSAMPLING = 4

Points = npt.NDArray[np.float64]
"""(N, 2) x and y in pixels."""


class Shape(NamedTuple):
    """An object's own colours and alpha."""

    colours: npt.NDArray[np.float32]
    """(H, W, 3) in [0, 255], straight, defined everywhere."""
    alpha: Alpha


def draw_shape(
    kind: Literal["hair", "fur", "straps", "glass", "holes"],
    texture: npt.NDArray[np.float32],
    rng: np.random.Generator,
    side: int,
) -> Shape:
    """Draw an object of a kind in the colours of a texture (side, side, 3)."""
    canvas = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING), np.uint8)
    if kind == "straps":
        _draw_straps(canvas, rng, side)
        return Shape(texture, _downsample(canvas, side))
    outline = _outline(rng, side)
    cv2.fillPoly(canvas, [np.rint(outline * SUPERSAMPLING).astype(np.int32)], 255)
    if kind == "hair":
        _draw_hair(canvas, outline, rng)
    elif kind == "fur":
        _draw_fur(canvas, outline, rng)
    elif kind == "holes":
        _punch_holes(canvas, rng, side)
    alpha = _downsample(canvas, side)
    return Shape(texture, _make_glass(alpha, rng) if kind == "glass" else alpha)


def _downsample(canvas: npt.NDArray[np.uint8], side: int) -> Alpha:
    return np.asarray(cv2.resize(canvas.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _outline(rng: np.random.Generator, side: int) -> Points:
    """Return a smooth closed curve of 360 points around the middle. It may be partly outside."""
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    radius = np.ones_like(angle)
    for wave in range(2, 7):
        radius += rng.normal(0, 0.25 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    centre = rng.uniform(0.3, 0.7, 2) * side
    radius_px = rng.uniform(0.18, 0.34) * side * np.maximum(radius, 0.3)
    return np.asarray(centre + radius_px[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), np.float64)


def _draw_line(canvas: npt.NDArray[np.uint8], path: Points, width_px: float, *, taper: bool) -> None:
    """Draw a line along a path. A tapered one gets thinner towards its end."""
    points = np.rint(path * SUPERSAMPLING).astype(np.int32)
    steps = 4 if taper else 1
    for step in range(steps):
        piece = points[len(points) * step // steps : len(points) * (step + 1) // steps + 1]
        thickness = max(1, round(width_px * SUPERSAMPLING * (1 - 0.75 * step / steps)))
        cv2.polylines(canvas, [piece.reshape(-1, 1, 2)], False, 255, thickness)


def _strand(start: Points, direction: float, length_px: float, curl: float, rng: np.random.Generator) -> Points:
    """Return a curve that turns more and more."""
    steps = 24
    turns = direction + np.cumsum(rng.normal(0, 0.04, steps) + curl / steps)
    return start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1), 0) * (length_px / steps)


def _outward(outline: Points, at: int) -> float:
    along = outline[(at + 1) % len(outline)] - outline[at - 1]
    return float(np.arctan2(-along[0], along[1]))


def _draw_hair(canvas: npt.NDArray[np.uint8], outline: Points, rng: np.random.Generator) -> None:
    width_px, length_px = rng.uniform(0.6, 1.8), rng.uniform(40, 180)
    for _ in range(int(rng.integers(25, 70))):  # locks of some strands each
        root, curl, lean = int(rng.integers(len(outline))), rng.normal(0, 1.2), rng.normal(0, 0.5)
        for _ in range(int(rng.integers(1, 9))):
            at = (root + int(rng.integers(-6, 7))) % len(outline)
            direction = _outward(outline, at) + lean + rng.normal(0, 0.15)
            path = _strand(outline[at], direction, length_px * rng.uniform(0.4, 1.2), curl + rng.normal(0, 0.3), rng)
            _draw_line(canvas, path, width_px * rng.uniform(0.6, 1.4), taper=True)


def _draw_fur(canvas: npt.NDArray[np.uint8], outline: Points, rng: np.random.Generator) -> None:
    width_px, length_px, lean = rng.uniform(0.6, 1.3), rng.uniform(8, 34), rng.normal(0, 0.6)
    for _ in range(int(rng.integers(500, 1600))):
        at = int(rng.integers(len(outline)))
        direction = _outward(outline, at) + lean + rng.normal(0, 0.3)
        path = _strand(outline[at], direction, length_px * rng.uniform(0.3, 1.2), rng.normal(0, 0.8), rng)
        _draw_line(canvas, path, width_px, taper=True)


def _draw_straps(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, side: int) -> None:
    for _ in range(int(rng.integers(3, 9))):
        start = rng.uniform(0.0, 1.0, 2) * side
        inward = float(np.arctan2(*(side / 2 - start)[::-1])) + rng.normal(0, 0.4)
        path = _strand(start, inward, rng.uniform(0.6, 1.4) * side, rng.normal(0, 1.5), rng)
        _draw_line(canvas, path, rng.uniform(1.2, 9), taper=False)


def _punch_holes(canvas: npt.NDArray[np.uint8], rng: np.random.Generator, side: int) -> None:
    """Cut holes in a turned grid: a net, a basket, a chain-link fence."""
    pitch, angle = rng.uniform(12, 34), rng.uniform(0, np.pi)
    hole = pitch * rng.uniform(0.45, 0.85) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    count = int(side / pitch)
    grid = np.stack(np.meshgrid(np.arange(-count, count), np.arange(-count, count)), -1).reshape(-1, 2) * pitch
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * hole
    is_round = rng.random() < 0.4
    for centre in grid @ turn.T + side / 2:
        if is_round:
            cv2.circle(canvas, np.rint(centre * SUPERSAMPLING).astype(int).tolist(), round(hole * SUPERSAMPLING), 0, -1)
        else:
            cv2.fillPoly(canvas, [np.rint((centre + corners @ turn.T) * SUPERSAMPLING).astype(np.int32)], 0)


def _make_glass(alpha: Alpha, rng: np.random.Generator) -> Alpha:
    """Make the inside of an object half transparent and keep its rim."""
    rim_px = int(rng.integers(5, 15))
    inside = cv2.erode(alpha, np.ones((rim_px, rim_px), np.uint8))
    waves = cv2.resize(rng.uniform(-0.2, 0.2, (5, 5)).astype(np.float32), alpha.shape[::-1], interpolation=cv2.INTER_CUBIC)
    pane = np.clip(rng.uniform(0.2, 0.65) + waves, 0.05, 0.95)
    return np.asarray(alpha * (1 - inside * (1 - pane)), np.float32)
