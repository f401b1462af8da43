"""Draw fruit and vegetables: rounded bodies with stalks and leaves."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.products.brands import colour
from pipeline.training.products.layers import TWICE, Artwork, Colour, Drawing, Plane, light_up, smooth_noise
from pipeline.training.products.light import Light
from pipeline.types import Pixels

MARGIN_PX = 2


class Looks(NamedTuple):
    """Appearance of a kind."""

    width: float
    """Largest radius, as a share of the height."""
    skew: float
    """Above 0: thicker at the bottom."""
    blunt: float
    """Exponent of the superellipse: 2 for an ellipse, more for blunt ends."""
    low: tuple[float, float, float]
    """Hue, saturation and value, least."""
    high: tuple[float, float, float]
    gloss: float
    skin: str
    stalk: str


PRODUCE: dict[str, Looks] = {
    "plum": Looks(0.4, 0.0, 2.0, (0.9, 0.45, 0.25), (1.03, 0.8, 0.6), 0.5, "bloom", "thin"),
    "orange": Looks(0.5, 0.0, 2.0, (0.07, 0.8, 0.8), (0.11, 0.95, 0.98), 0.35, "dimples", "navel"),
    "melon": Looks(0.39, 0.0, 2.1, (0.11, 0.6, 0.65), (0.15, 0.9, 0.98), 0.3, "ridges", "navel"),
    "watermelon": Looks(0.44, 0.0, 2.2, (0.25, 0.5, 0.2), (0.33, 0.7, 0.5), 0.4, "streaks", "navel"),
    "aubergine": Looks(0.26, 0.45, 2.3, (0.74, 0.2, 0.06), (0.86, 0.55, 0.2), 1.0, "plain", "calyx"),
    "courgette": Looks(0.11, 0.08, 4.0, (0.22, 0.5, 0.2), (0.33, 0.8, 0.45), 0.5, "speckles", "stump"),
    "tomato": Looks(0.54, 0.0, 2.2, (-0.01, 0.8, 0.6), (0.04, 0.93, 0.9), 0.8, "plain", "calyx"),
    "potato": Looks(0.38, 0.05, 2.2, (0.08, 0.3, 0.6), (0.12, 0.55, 0.85), 0.05, "earth", "none"),
    "onion": Looks(0.47, 0.05, 2.0, (0.05, 0.4, 0.6), (0.1, 0.7, 0.88), 0.3, "streaks", "tip"),
    "lemon": Looks(0.37, 0.0, 1.8, (0.13, 0.7, 0.85), (0.16, 0.9, 0.98), 0.3, "dimples", "navel"),
    "apple": Looks(0.5, -0.08, 2.2, (-0.02, 0.6, 0.5), (0.24, 0.85, 0.85), 0.7, "streaks", "thin"),
    "pear": Looks(0.3, 0.4, 2.0, (0.14, 0.45, 0.6), (0.22, 0.75, 0.85), 0.3, "speckles", "thin"),
}


def draw_produce(kind: str, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw one fruit or vegetable of this kind, upright."""
    looks = PRODUCE[kind]
    wobble = rng.normal(0, 0.02, 2)
    half = int(looks.width * (1 + abs(looks.skew)) * height_px * 1.1 + 0.06 * height_px) + MARGIN_PX
    stalk_px = int(0.22 * height_px)
    shape = height_px + stalk_px + MARGIN_PX, 2 * half
    rows = (np.arange(shape[0], dtype=np.float32) - stalk_px) / height_px
    inside = np.clip(rows, 0, 1)
    level = 2 * inside - 1
    ellipse = (1 - np.abs(level) ** looks.blunt) ** (1 / looks.blunt)
    radius = np.asarray(height_px * looks.width * ellipse * (1 + looks.skew * level), np.float32)
    bend_px = np.clip(rng.normal(0, 0.06 if looks.width < 0.2 else 0.02), -0.06, 0.06) * height_px
    bend = np.asarray(bend_px * np.sin(np.pi * inside), np.float32)
    left, right = (radius * (1 + wobble[number] * np.cos(4 * inside + number)) for number in (0, 1))
    across = (np.arange(shape[1], dtype=np.float32) - half + 0.5)[None] - bend[:, None]
    side_on = np.clip(across / np.maximum(np.where(across < 0, left[:, None], right[:, None]), 0.5), -1, 1).astype(np.float32)
    skin = _skin(looks, shape, side_on, inside, rng)
    colours = _light(skin, looks, light, side_on, radius)
    mask = np.zeros((TWICE * shape[0], TWICE * shape[1]), np.uint8)
    body = np.flatnonzero((rows >= 0) & (rows <= 1))
    edges = [np.stack([half + bend[body] + way * edge[body], body], 1) for way, edge in ((1, right), (-1, left))]
    cv2.fillPoly(mask, [np.rint(TWICE * np.concatenate([edges[0], edges[1][::-1]])).astype(np.int32)], 255)
    drawing = Drawing(colours, mask)
    _stalk(drawing, looks, (half, stalk_px), height_px, rng)
    return drawing.cut_out()


def _skin(
    looks: Looks,
    shape: tuple[int, int],
    side_on: Plane,
    inside: Plane,
    rng: np.random.Generator,
) -> Pixels:
    """Colour a body (h, w, 3)."""
    first, second = (np.array(colour(*rng.uniform(looks.low, looks.high)), np.float32) for _ in range(2))
    blend = (smooth_noise(rng, shape, (4, 3)) * 0.5 + 0.5).clip(0, 1) * rng.uniform(0.2, 0.9)
    skin = _mix(first, second, blend)
    tint = 1 - (0.12 * np.clip(1 - 8 * inside, 0, 1) + 0.1 * np.clip(8 * inside - 7, 0, 1))[:, None] * np.ones_like(side_on)
    if looks.skin == "streaks":
        waves = 1 + rng.uniform(0.05, 0.2) * np.interp(np.linspace(0, 90, 300), np.arange(91), rng.uniform(-1, 1, 91))
        tint = tint * waves.astype(np.float32)[(np.arcsin(side_on) * 75 + 150).astype(int)]
    elif looks.skin == "ridges":
        tint = tint * (1 + 0.06 * np.sin(np.arcsin(side_on) * rng.uniform(9, 16)) + 0.05 * smooth_noise(rng, shape, (28, 20)))
    elif looks.skin in {"dimples", "speckles", "earth"}:
        fine = rng.standard_normal(((shape[0] + 1) // 2, (shape[1] + 1) // 2), np.float32)
        fine = np.asarray(cv2.resize(cv2.GaussianBlur(fine, (0, 0), 1.0), shape[::-1]), np.float32)
        coarse = 0.3 * smooth_noise(rng, shape, (14, 10)) if looks.skin == "earth" else 0
        tint = tint * (1 + {"dimples": 0.1, "speckles": 0.4, "earth": 0.3}[looks.skin] * (fine + coarse))
    elif looks.skin == "bloom":
        haze = np.clip(smooth_noise(rng, shape, (5, 4)), 0, 1) * rng.uniform(0.1, 0.45)
        skin = _mix(skin, np.array([196, 190, 215], np.float32), haze)
    return light_up(skin, np.asarray(tint, np.float32))


def _mix(first: npt.NDArray[Any], second: npt.NDArray[Any], share: Plane) -> Pixels:
    """Mix two colours, the first of which may be a picture (h, w, 3), by the share (h, w) of the second one."""
    planes = [one + share * (two - one) for one, two in zip(np.moveaxis(first.astype(np.float32), -1, 0), second, strict=True)]
    return np.asarray(cv2.merge(planes).astype(np.uint8), np.uint8)


def _light(skin: Pixels, looks: Looks, light: Light, side_on: Plane, radius: Plane) -> Pixels:
    """Shade a body and add the reflection of a lamp."""
    slope = np.clip(np.gradient(radius), -6, 6)[::2, None].astype(np.float32)
    side_on, steep = side_on[::2, ::2], np.sqrt(1 + slope**2)  # light changes slowly
    x, y, z = side_on / steep, -slope / steep, np.sqrt(1 - side_on**2) / steep
    towards = light.towards
    facing = np.clip(x * towards[0] + y * towards[1] + z * towards[2], 0, 1)
    shade = (0.22 + 0.8 * (light.ambient + (1 - light.ambient) * facing)) * (0.62 + 0.38 * np.sqrt(z))
    half = np.array([towards[0], towards[1], towards[2] + 1])  # halfway to the camera
    half /= np.linalg.norm(half)
    aligned = x * float(half[0]) + y * float(half[1]) + z * float(half[2])
    gleam = np.exp((12 + 120 * looks.gloss) * (aligned - 1))  # about aligned ** exponent, and faster
    size = skin.shape[1::-1]
    return light_up(skin, cv2.resize(shade, size), cv2.resize(looks.gloss * 170 * gleam, size))


def _stalk(drawing: Drawing, looks: Looks, foot: tuple[int, int], height: int, rng: np.random.Generator) -> None:
    """Draw what grows on top."""
    u = rng.uniform
    green, brown = colour(u(0.2, 0.33), u(0.3, 0.6), u(0.3, 0.6)), colour(0.08, 0.5, u(0.25, 0.5))
    if looks.stalk == "thin":
        _curve(drawing, foot, u(0.1, 0.2) * height, rng.normal(0, 0.7), u(0.012, 0.03) * height, brown, rng)
    elif looks.stalk in {"calyx", "stump"}:
        _curve(drawing, foot, u(0.06, 0.18) * height, rng.normal(0, 0.4), u(0.05, 0.09) * height, green, rng)
        if looks.stalk == "calyx":
            _leaves(drawing, foot, u(0.13, 0.22) * height, green, rng)
    elif looks.stalk == "navel":
        place = foot[0] + int(rng.normal(0, 0.05) * height), foot[1] + int(u(0.05, 0.2) * height)
        cv2.ellipse(drawing.colours, place, (max(2, height // 40), max(1, height // 60)), 0, 0, 360, brown, -1, cv2.LINE_AA)
    elif looks.stalk == "tip":
        for _ in range(4):
            dry = colour(0.1, 0.45, u(0.5, 0.8))
            _curve(drawing, foot, u(0.08, 0.2) * height, rng.normal(0, 0.4), 0.03 * height, dry, rng)


def _leaves(drawing: Drawing, foot: tuple[int, int], reach: float, green: Colour, rng: np.random.Generator) -> None:
    """Draw the pointed leaves of a calyx."""
    for angle in np.linspace(0.1, np.pi - 0.1, int(rng.integers(4, 7))) + rng.normal(0, 0.1):
        tip = np.array(foot) + reach * np.array([np.cos(angle) * 0.9, 0.75 * np.sin(angle) + 0.1])
        broad = 0.35 * reach * np.array([np.sin(angle), -np.cos(angle)])
        leaf = np.array([np.array(foot) + broad, tip, np.array(foot) - broad])
        tint = tuple(int(value * rng.uniform(0.8, 1.15)) for value in green)
        cv2.fillPoly(drawing.colours, [np.rint(leaf).astype(np.int32)], tint, cv2.LINE_AA)
        cv2.fillPoly(drawing.opacity, [np.rint(TWICE * leaf).astype(np.int32)], 255)


def _curve(
    drawing: Drawing,
    foot: tuple[int, int],
    length: float,
    lean: float,
    thickness: float,
    tint: Colour,
    rng: np.random.Generator,
) -> None:
    """Draw a stalk from a foot upwards, dark on one side."""
    steps = np.linspace(0, 1, 10)
    angle = lean * steps + rng.normal(0, 0.5) * steps**2
    steps_up = np.stack([np.sin(angle), -np.cos(angle)], 1) * length / 10
    path = np.array([foot[0], foot[1] + 0.05 * length]) + np.cumsum(steps_up, 0)
    for shift, brightness, wider in ((0.0, 0.65, thickness + 2), (-0.15 * thickness, 1.1, 0.6 * thickness)):
        shade = tuple(int(min(255, brightness * value)) for value in tint)
        points = np.rint(path + np.array([shift, 0])).astype(np.int32)
        cv2.polylines(drawing.colours, [points], False, shade, max(1, round(wider)), cv2.LINE_AA)
    outline = np.rint(TWICE * path).astype(np.int32)
    cv2.polylines(drawing.opacity, [outline], False, 255, max(2, round(TWICE * thickness)))
