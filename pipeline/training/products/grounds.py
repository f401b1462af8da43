"""Draw what products stand on, and their shadows and reflections there."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.material import Material
from pipeline.training.products.brands import colour
from pipeline.training.products.layers import Canvas, Colours, Layer, blur, smooth_noise
from pipeline.training.products.light import Light

Studio = Literal["white", "grey", "black", "coloured"]


def draw_studio(rng: np.random.Generator) -> Studio:
    """Draw a studio's colour: mostly white."""
    studios: tuple[Studio, ...] = ("white", "grey", "black", "coloured")
    return studios[int(rng.choice(4, p=[0.5, 0.2, 0.15, 0.15]))]


def sweep(studio: Studio, rng: np.random.Generator, size: tuple[int, int]) -> Colours:
    """Draw a seamless studio background (H, W, 3): one colour, lighter in places."""
    u = rng.uniform
    if studio == "white":
        tint, fall = np.full(3, u(0.93, 1.0)), u(0, 0.08)
    elif studio == "black":
        tint, fall = np.full(3, u(0.01, 0.12)), u(0, 0.08)
    elif studio == "grey":
        tint, fall = np.full(3, u(0.3, 0.9)), u(0, 0.3)
    else:
        tint, fall = np.array(colour(u(), u(0.1, 0.8), u(0.4, 0.98))) / 255, u(0, 0.2)
    if studio == "white" and rng.random() < 0.4:  # cut out and put on white by the shop
        return np.ones((*size, 3), np.float32)
    down, across = (np.linspace(-1, 1, length, dtype=np.float32) for length in size)
    spot = (across[None] - u(-0.5, 0.5)) ** 2 + (down[:, None] - u(-0.7, 0.5)) ** 2
    light = 1 - np.float32(fall) * spot / 2 + np.float32(u(-0.06, 0.06)) * down[:, None]
    if rng.random() < 0.4:  # the bend of the sweep
        light *= 1 + np.float32(u(-0.1, 0.1)) / (1 + np.exp(-(down[:, None] - np.float32(u(0, 0.6))) * np.float32(u(4, 40))))
    warmth = 1 + rng.normal(0, 0.015, 3)
    return _tinted(light, tint * warmth)


def table(rng: np.random.Generator, size: tuple[int, int]) -> Colours:
    """Draw a table of wood, stone or paint before a wall (H, W, 3)."""
    height, width = size
    wall = sweep("coloured" if rng.random() < 0.4 else "grey", rng, size)
    level = int(rng.uniform(0.45, 0.75) * height)
    rows = height - level
    kind = int(rng.integers(3))
    if kind == 0:  # wood: long grain, and planks
        grain = smooth_noise(rng, (rows, width), (int(rng.integers(20, 60)), 3)) * np.float32(0.1)
        grain += smooth_noise(rng, (rows, width), (6, 2)) * np.float32(0.12)
        tint = colour(rng.uniform(0.05, 0.1), rng.uniform(0.25, 0.6), rng.uniform(0.35, 0.85))
        top = _tinted(1 + grain, np.array(tint) / 255)
    elif kind == 1:  # stone
        top = _tinted(1 + 0.04 * smooth_noise(rng, (rows, width), (rows // 3, width // 3)), np.full(3, rng.uniform(0.2, 0.9)))
    else:
        fade = np.linspace(rng.uniform(0.75, 1), 1, rows, dtype=np.float32)[:, None] * np.ones((1, width), np.float32)
        top = _tinted(fade, np.array(colour(rng.uniform(), rng.uniform(0, 0.5), rng.uniform(0.3, 1))) / 255)
    return np.concatenate([np.asarray(cv2.GaussianBlur(wall[:level], (0, 0), 3)), top])


def photo(material: Material, rng: np.random.Generator, size: tuple[int, int]) -> Colours:
    """Cut a photo to size (H, W, 3), often out of focus."""
    side = max(size)
    pixels = material.background(rng, "train", side)[: size[0], : size[1]]
    if rng.random() < 0.6:
        pixels = np.asarray(blur(pixels, float(rng.uniform(1, 8))), np.uint8)
    return np.asarray(pixels.astype(np.float32) / 255)


def cast_shadow(
    canvas: Canvas, layer: Layer, at: tuple[float, float], light: Light, rng: np.random.Generator, *, far: float = 0.7
) -> None:
    """Darken the ground where a standing layer touches it and, with the probability ``far``, where it keeps the light away."""
    x, y = at
    height, width = layer.shape[:2]
    contact = np.zeros((max(8, width // 4), 2 * width), np.uint8)
    middle = (width, contact.shape[0] // 2)
    cv2.ellipse(contact, middle, (max(2, int(0.47 * width)), max(2, contact.shape[0] // 6)), 0, 0, 360, 255, -1)
    soft = blur(contact, 0.035 * width).astype(np.float32) * np.float32(rng.uniform(0.25, 0.75) / 255)
    canvas.shade(soft, x - width / 2, y + height - contact.shape[0] * 0.62)
    if rng.random() < far:
        cast_far(canvas, layer, at, light, rng)


def cast_far(canvas: Canvas, layer: Layer, at: tuple[float, float], light: Light, rng: np.random.Generator) -> None:
    """Lay the outline down on the ground, away from the light: sharp under a bare lamp, soft under a clouded sky."""
    step = 2  # pixels of the canvas per pixel of the shadow
    height, width = canvas.size
    flat, lean = rng.uniform(0.08, 0.4), -light.towards[0] * rng.uniform(0.2, 1.0)
    foot_x, foot_y = at[0] + layer.shape[1] / 2, at[1] + layer.shape[0] * 0.985
    # A point of the layer, so high above its foot, falls lean * height to the side and flat * height up the ground.
    matrix = np.array(
        [
            [1, -lean, foot_x - layer.shape[1] / 2 + lean * layer.shape[0]],
            [0, flat, foot_y - flat * layer.shape[0]],
        ]
    ) / step  # fmt: skip
    alpha = np.ascontiguousarray(layer[..., 3])
    fallen = cv2.warpAffine(alpha, matrix, (width // step, height // step))
    fallen = blur(fallen, (0.6 + 14 * (1 - light.hardness) ** 2) / step * max(layer.shape[:2]) / 300)
    strength = rng.uniform(0.12, 0.5) * (0.5 + 0.5 * light.hardness)
    canvas.shade(np.asarray(cv2.resize(fallen, (width, height)), np.float32) * np.float32(strength), 0, 0)


def reflect(canvas: Canvas, layer: Layer, at: tuple[float, float], rng: np.random.Generator) -> None:
    """Mirror a standing layer on a polished ground, fainter with distance."""
    depth = int(rng.uniform(0.15, 0.6) * layer.shape[0])
    mirrored = np.ascontiguousarray(layer[::-1][:depth])
    fade = np.linspace(rng.uniform(0.12, 0.4), 0, depth, dtype=np.float32)[:, None, None]
    canvas.put(np.asarray(blur(mirrored, float(rng.uniform(0.5, 2.5))) * fade, np.float32), at[0], at[1] + layer.shape[0] - 3)


def _tinted(light: npt.NDArray[np.float32], tint: npt.NDArray[np.float64]) -> Colours:
    return np.clip(cv2.merge([np.asarray(light * np.float32(value)) for value in tint]), 0, 1)
