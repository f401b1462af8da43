"""Draw soft bags: pouches of film or paper with welded ends, creases and reflections."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.training.products.brands import Brand
from pipeline.training.products.layers import TWICE, Artwork, Drawing, blur, light_up, smooth_noise
from pipeline.training.products.light import Light, Pose
from pipeline.training.products.prints import front

MARGIN_PX = 3


def draw_pouch(brand: Brand, pose: Pose, light: Light, height_px: int, rng: np.random.Generator) -> Artwork:
    """Draw a bag of crisps, coffee or rice, which bulges in the middle and is welded at its ends."""
    u = rng.uniform
    width_px = round(u(0.55, 0.9) * height_px * (0.85 + 0.15 * np.cos(np.deg2rad(pose.yaw))))
    shape = height_px + 2 * MARGIN_PX, width_px + 2 * MARGIN_PX
    mask = np.zeros((TWICE * shape[0], TWICE * shape[1]), np.uint8)
    cv2.fillPoly(mask, [np.rint(TWICE * (_outline(height_px, width_px, rng) + MARGIN_PX)).astype(np.int32)], 255)
    relief = _relief(shape, rng)
    print_ = front(brand, rng, height_px, width_px)
    shift = [cv2.resize(blur(smooth_noise(rng, shape, (5, 4)), 2), shape[::-1]) * u(0, 0.02) * height_px for _ in range(2)]
    down, across = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    worn = cv2.remap(
        print_, across - MARGIN_PX + shift[0], down - MARGIN_PX + shift[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    slope_x, slope_y = (cv2.Sobel(relief, cv2.CV_32F, *way, ksize=3, scale=0.125) for way in ((1, 0), (0, 1)))
    norm = np.sqrt(1 + slope_x**2 + slope_y**2)
    facing = (-slope_x * light.towards[0] - slope_y * light.towards[1] + light.towards[2]) / norm
    shade = 0.4 + 0.68 * (light.ambient + (1 - light.ambient) * np.clip(facing, 0, 1))
    half = np.array([light.towards[0], light.towards[1], light.towards[2] + 1])  # halfway to the camera
    half /= np.linalg.norm(half)
    gleam = np.clip((-slope_x * half[0] - slope_y * half[1] + half[2]) / norm, 0, 1) ** 24
    lit = light_up(worn, shade.astype(np.float32), brand.gloss * u(20, 110) * gleam)
    seam = max(3, int(u(0.03, 0.06) * height_px))
    for rows in (slice(MARGIN_PX, MARGIN_PX + seam), slice(shape[0] - MARGIN_PX - seam, shape[0] - MARGIN_PX)):
        lit[rows, ::4] = (lit[rows, ::4] * 0.86).astype(np.uint8)
    return Drawing(lit, mask).cut_out()


def _outline(height: int, width: int, rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the outline: flat ends with teeth, and sides that are drawn in where the bag bulges."""
    steps = np.linspace(0, 1, 24)
    drawn_in = rng.uniform(-0.02, 0.05) * width
    left, right = (drawn_in * np.sin(np.pi * steps) + rng.normal(0, 0.004 * width, 24) for _ in range(2))
    teeth = np.linspace(0, width, max(8, width // 4))
    zigzag = np.where(np.arange(len(teeth)) % 2, 0.0, rng.choice([0.0, 1.6]))
    top = np.stack([teeth, zigzag], 1)
    sides = [np.stack([width - right, steps * height], 1), np.stack([left, steps * height], 1)[::-1]]
    bottom = np.stack([teeth, height - zigzag], 1)[::-1]
    return np.concatenate([top, sides[0][1:-1], bottom, sides[1][1:-1]])


def _relief(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the height of the film in pixels: a bulge, creases that run from the seams, and wrinkles."""
    down, across = (np.linspace(0, np.pi, length, dtype=np.float32) for length in shape)
    bulge = np.clip(np.sin(down), 0, 1)[:, None] ** 0.6 * np.clip(np.sin(across), 0, 1)[None] ** 0.7
    relief = rng.uniform(0.1, 0.22) * shape[1] * bulge
    creases = np.zeros((shape[0], shape[1]), np.uint8)
    for _ in range(int(rng.integers(4, 14))):
        x = rng.uniform(0, shape[1])
        length = rng.uniform(0.08, 0.3) * shape[0]
        from_top = rng.random() < 0.5
        y = 0 if from_top else shape[0]
        tip = x + rng.normal(0, 0.08) * shape[1], y + (length if from_top else -length)
        cv2.line(creases, (round(x), y), (round(tip[0]), round(tip[1])), 255, int(rng.integers(1, 6)), cv2.LINE_AA)
    relief += rng.uniform(0.004, 0.012) * shape[1] * blur(creases, 3).astype(np.float32) / 64
    wrinkles = smooth_noise(rng, shape, (7, 5)) * rng.uniform(0.002, 0.014) * shape[1]
    return np.asarray(relief + wrinkles, np.float32)
