"""Draw hands that hold a product: palm, forearm and sleeve behind it, thumb or fingers in front of it.

A hand reaches over an edge of the product. Its coordinates are multiples of the palm's width from there: the first into the
product, the second along its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.products.layers import TWICE, Canvas, Drawing, Layer, Points, blur, light_up, smooth_noise
from pipeline.training.products.light import Light
from pipeline.types import Alpha, Mask, Pixels

COARSE = 2
"""Pixels per pixel of the colours of skin, which is smooth."""

SKINS = (
    (244, 208, 184),
    (236, 188, 160),
    (224, 172, 140),
    (205, 148, 115),
    (176, 118, 86),
    (141, 92, 66),
    (104, 66, 48),
    (74, 48, 38),
)
"""Colours of skin from pale to dark, in light."""

Vector = npt.NDArray[np.float64]
"""(2,) x and y."""

Radii = npt.NDArray[np.floating[Any]]

Limb = tuple[Points, Radii]
"""A path (N, 2) and its radii (N,), in palm widths."""


class Grip(NamedTuple):
    """Position of a hand: a point on the product's edge, the direction into the product, and the palm's width."""

    edge: npt.NDArray[np.float64]
    inward: npt.NDArray[np.float64]
    along: npt.NDArray[np.float64]
    palm_px: float
    far_edge: float
    """Distance of the opposite edge in palm widths."""

    def place(self, points: Points) -> Points:
        """Convert palm widths to pixels."""
        return np.asarray(self.edge + self.palm_px * (points[:, :1] * self.inward + points[:, 1:] * self.along))


class Hand:
    """A hand around a product. ``put_behind`` comes before the product and ``put_front`` after it."""

    def __init__(self, product: Layer, at: tuple[float, float], roll: float, light: Light, rng: np.random.Generator) -> None:
        self.light, self.rng = light, rng
        self.grip = _find_grip(product, at, roll, rng)
        self.skin = SKINS[int(rng.choice(len(SKINS), p=[0.15, 0.2, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05]))]
        self.fingers_in_front = bool(rng.random() < 0.35)
        self.rows = np.array([-0.42, -0.14, 0.14, 0.4]) + rng.normal(0, 0.02, 4) + rng.uniform(-0.15, 0.15)

    def put_behind(self, canvas: Canvas) -> None:
        """Put the sleeve, the forearm, the palm and the ends of fingers that reach around the product."""
        u = self.rng.uniform
        wrist = np.array([u(-1.5, -1.1), u(0.6, 1.1)])
        elbow = wrist + np.array([u(-3.5, -2), u(1.5, 4.0)])
        arm: Limb = np.array([elbow, wrist, [-0.55, 0.3]]), np.array([0.5, 0.34, 0.36])
        palm: list[Limb] = [
            (np.array([wrist, [-0.5, 0.25], [0.1, -0.1]]), np.array([0.33, 0.46, 0.42])),
            (np.array([[-0.45, -0.25], [0.2, -0.25]]), np.array([0.3, 0.3])),
        ]
        sleeve: Limb | None = None
        cloth = self.rng.integers(15, 235, 3).tolist()
        if self.rng.random() < 0.7:
            cuff = wrist + u(0.05, 0.5) * (elbow - wrist)
            sleeve = np.array([elbow, cuff]), np.array([0.66, 0.5])
        around = [] if self.fingers_in_front else self._tips(start=-0.6)
        self._put(canvas, [arm, *palm, *around], self.skin)
        if sleeve:
            self._put(canvas, [sleeve], (cloth[0], cloth[1], cloth[2]), cloth=True)

    def put_front(self, canvas: Canvas) -> None:
        """Put the thumb, or the fingers, with their shadow on the product."""
        u = self.rng.uniform
        if self.fingers_in_front:
            reach = np.minimum(np.array([0.72, 0.9, 0.85, 0.62]) * u(0.7, 1.15), 0.9 * self.grip.far_edge)
            fingers: list[Limb] = []
            for row, length in zip(self.rows, reach, strict=True):
                bend = self.rng.normal(0, 0.05)
                path = np.array([[-0.45, 0.75 * row], [-0.08, row], [0.5 * length, row + bend], [length, row + 1.6 * bend]])
                fingers.append((path, np.array([0.19, 0.15, 0.14, 0.115])))
            self._put(canvas, fingers, self.skin, nails=self.rng.random() < 0.7, shadow=True)
            return
        length = min(u(0.55, 0.95), 0.9 * self.grip.far_edge)
        rise = u(-0.75, -0.1)
        path = np.array([[-0.5, 0.35], [-0.12, 0.1], [0.45 * length, 0.5 * rise], [length, rise]])
        self._put(canvas, [(path, np.array([0.3, 0.22, 0.175, 0.14]))], self.skin, nails=True, shadow=True)
        if self.grip.far_edge < 1.5:
            self._put(canvas, self._tips(start=self.grip.far_edge + 0.06), self.skin, shadow=True)

    def _tips(self, start: float) -> list[Limb]:
        """Return fingers that come around the far edge, where they end in front of the product."""
        if self.grip.far_edge > 1.5:
            return []
        far, limbs = self.grip.far_edge, []
        behind = start < 0
        for row in self.rows:
            end = far + 0.08 if behind else far - 0.2
            limbs.append((np.array([[start, row], [end, row - 0.02]]), np.array([0.14, 0.125])))
        return limbs

    def _put(
        self,
        canvas: Canvas,
        limbs: list[Limb],
        colour: tuple[int, int, int],
        *,
        nails: bool = False,
        cloth: bool = False,
        shadow: bool = False,
    ) -> None:
        """Put limbs on the canvas as one layer."""
        placed = [(self.grip.place(_smooth(path)), _smooth(radii[:, None])[:, 0] * self.grip.palm_px) for path, radii in limbs]
        height, width = canvas.size
        reach = max(float(radii.max()) for _, radii in placed) + 3
        low = np.clip(np.min([path.min(0) for path, _ in placed], 0) - reach, 0, (width - 2, height - 2)).astype(int)
        high = np.clip(np.max([path.max(0) for path, _ in placed], 0) + reach, low + 2, (width, height)).astype(int)
        local = [(path - low, radii) for path, radii in placed]
        layer = self._draw(local, (int(high[1] - low[1]), int(high[0] - low[0])), colour, nails=nails, cloth=cloth)
        if shadow:
            soft = blur(np.ascontiguousarray(layer[..., 3]), 0.05 * self.grip.palm_px) * np.float32(self.rng.uniform(0.2, 0.55))
            shift = 0.06 * self.grip.palm_px
            canvas.shade(np.asarray(soft), low[0] - shift * self.light.towards[0], low[1] + shift)
        canvas.put(layer, low[0], low[1])

    def _draw(
        self, limbs: list[Limb], shape: tuple[int, int], colour: tuple[int, int, int], *, nails: bool, cloth: bool
    ) -> Layer:
        """Draw round limbs: from a dark outline to a bright ridge on the side of the light."""
        base, towards = np.array(colour, float), np.array(self.light.towards[:2])
        picture = np.empty((shape[0] // COARSE + 1, shape[1] // COARSE + 1, 3), np.uint8)
        picture[:] = (0.7 * base).astype(np.uint8)
        opacity = np.zeros((TWICE * shape[0], TWICE * shape[1]), np.uint8)
        for path, radii in limbs:
            for share in (1.15, 0.9, 0.68, 0.46, 0.24):
                bright = 1.04 - 0.5 * share**2.2
                red = 1 if cloth else 1 + 0.06 * share  # light that scatters below skin is red where it is dim
                tint = np.clip(base * bright * (red, 1, 1), 0, 255).tolist()
                _stroke(picture, path + (1 - share) * 0.35 * radii[:, None] * towards, radii * share, tint, 1 / COARSE)
            _stroke(opacity, path, radii, [255], TWICE)
            if nails:
                _nail(picture, path / COARSE, float(radii[-1]) / COARSE, base)
        noise = smooth_noise(self.rng, picture.shape[:2], (max(2, shape[0] // 12), max(2, shape[1] // 12)))
        if cloth:
            rows = np.arange(len(noise), dtype=np.float32)[:, None]
            noise += self.rng.uniform(0, 1.5) * np.sin(rows * self.rng.uniform(1, 3))
        soft = cv2.GaussianBlur(picture, (0, 0), (0.03 * self.grip.palm_px + 0.5) / COARSE)
        lit = cv2.resize(light_up(np.asarray(soft, np.uint8), 1 + np.float32(0.035) * noise), None, fx=COARSE, fy=COARSE)
        artwork = Drawing(np.ascontiguousarray(lit[: shape[0], : shape[1]]), opacity).cut_out()
        return np.asarray(artwork.astype(np.float32) / np.float32(255), np.float32)


def _nail(picture: Pixels, path: Points, radius: float, base: npt.NDArray[np.float64]) -> None:
    """Draw a nail at the end of a finger."""
    along = path[-1] - path[-3]
    angle = float(np.degrees(np.arctan2(along[1], along[0])))
    place = np.rint(path[-1] + 0.15 * along / max(float(np.linalg.norm(along)), 1e-6) * radius).astype(int).tolist()
    for long, wide, tint in ((0.85, 0.55, base * (0.86, 0.78, 0.78)), (0.72, 0.42, base * 0.5 + (120, 92, 90))):
        axes = max(1, round(long * radius)), max(1, round(wide * radius))
        cv2.ellipse(picture, place, axes, angle, 0, 360, np.clip(tint, 0, 255).tolist(), -1, cv2.LINE_AA)


def _find_grip(product: Layer, at: tuple[float, float], roll: float, rng: np.random.Generator) -> Grip:
    """Choose an edge of the product: mostly the left or the right one, sometimes the bottom."""
    alpha = product[..., 3]
    height, width = alpha.shape
    side = rng.choice(3, p=[0.4, 0.4, 0.2])
    direction = np.deg2rad((0.0, 180.0, 90.0)[int(side)] - roll * 0.8 + rng.normal(0, 10))
    inward = np.array([np.cos(direction), -np.sin(direction)])
    along = np.array([-inward[1], inward[0]]) * (1 if side == 0 else -1 if side == 1 else rng.choice([-1, 1]))
    along = -along if along[1] < -0.3 else along
    middle = np.array([width / 2, height / 2]) + along * rng.uniform(-0.1, 0.25) * min(height, width)
    near, far = (_edge(alpha, middle, way * inward) for way in (-1, 1))
    palm_px = float(rng.uniform(0.7, 1.05) * min(0.35 * max(height, width), 0.62 * min(height, width)))
    return Grip(near + np.array(at), inward, along, palm_px, float(np.linalg.norm(far - near)) / palm_px)


def _edge(alpha: Alpha, start: Vector, way: Vector) -> Vector:
    """Walk from a point until the product ends."""
    steps = np.arange(0, max(alpha.shape), 2.0)
    path = np.rint(start + steps[:, None] * way).astype(int)
    inside = ((path >= 0) & (path < alpha.shape[::-1])).all(1)
    clipped = np.clip(path, 0, np.array(alpha.shape[::-1]) - 1)
    solid = inside & (alpha[clipped[:, 1], clipped[:, 0]] > 0.3)
    last = int(np.flatnonzero(solid).max(initial=0))
    return np.asarray(start + steps[last] * way)


def _smooth(values: Points) -> Points:
    """Return a smooth curve through some values (N, k), with five points per piece (Catmull-Rom)."""
    ends = np.concatenate([2 * values[:1] - values[1:2], values, 2 * values[-1:] - values[-2:-1]])
    t = np.linspace(0, 1, 5, endpoint=False)[:, None]
    pieces = []
    for number in range(len(values) - 1):
        a, b, c, d = ends[number : number + 4]
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, values[-1:]])


def _stroke(picture: Pixels | Mask, path: Points, radii: Radii, tint: Sequence[float], scale: float) -> None:
    """Draw a line of varying width with round ends."""
    points = np.rint(path * scale).astype(int).tolist()
    for start, end, radius in zip(points, points[1:], radii[1:] * scale, strict=False):
        cv2.line(picture, start, end, tint, max(1, round(2 * radius)))
