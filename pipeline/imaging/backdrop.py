"""Place a photo's object on a studio backdrop, with its cast shadow or its reflection in the floor.

Neither belongs to the object, but networks often include them. The object keeps its place and size, so the ground truth stays
valid. The backdrop is a wall that bends into a floor, with uneven light and camera noise.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config.rendition import Shadow
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.multilevel import broadcast_alpha
from pipeline.imaging.renditions.shadow import cast_shadow
from pipeline.imaging.rle import HALF
from pipeline.types import Alpha, Mask, Pixels, Size, as_alpha

MIN_OPACITY, MIN_SHARE = 0.15, 0.03
"""A shadow or reflection must have this opacity on the floor, on an area of this share of the object's."""

BINARY_SHARE = 0.01
"""Share of partly transparent pixels below which a mask counts as binary. Its edge is then softened inwards."""

Floats = npt.NDArray[np.floating[Any]]


def render_on_backdrop(
    photo: Pixels, ground_truth: Mask, effect: Literal["shadow", "reflection"], rng: np.random.Generator
) -> Pixels:
    """Render a photo's (H, W, 3) object, given its ground truth (H, W), on a backdrop.

    Raises:
        ValueError: Too little of the floor beside or below the object is in the frame.
    """
    alpha, colours = extract_object(photo, ground_truth)
    box = cv2.boundingRect((ground_truth >= HALF).astype(np.uint8))
    base = box[1] + box[3]
    floor = _backdrop(Size(*ground_truth.shape), base, rng, dark=effect == "reflection" and rng.random() < 0.4)
    if effect == "shadow":
        shade = _first_visible([_lamp_shadow(alpha, base, box[3], side, rng) for side in rng.permutation([-1, 1])], alpha)
        floor *= broadcast_alpha(1 - shade)
    else:
        share, mirrored = _reflection(alpha, colours, base, box[3], rng)
        share = _first_visible([share], alpha)
        floor += broadcast_alpha(share) * (mirrored - floor)
    contact = cast_shadow(Shadow(opacity=float(rng.uniform(0.3, 0.6))), alpha, 0, 0, Size(*ground_truth.shape))
    if contact is not None:
        floor[contact.area] *= broadcast_alpha(1 - contact.opacity)
    floor += rng.normal(0, rng.uniform(0.5, 2.5), ground_truth.shape).astype(np.float32)[..., None]
    floor += broadcast_alpha(alpha) * (colours - floor)
    return np.asarray(np.clip(np.rint(floor), 0, 255), np.uint8)


def extract_object(photo: Pixels, ground_truth: Mask) -> tuple[Alpha, Pixels]:
    """Return a photo's object for compositing: opacity (H, W) and its own colours (H, W, 3)."""
    partly = np.count_nonzero((ground_truth > 0) & (ground_truth < 255))
    soft = ground_truth
    if partly < BINARY_SHARE * np.count_nonzero(ground_truth):
        # A hand-drawn mask includes the mixed pixels of the edge, which would show the old background.
        inward = np.asarray(cv2.GaussianBlur(ground_truth, (0, 0), 0.9), np.float32)
        soft = np.clip((inward - 110) * (255 / 120), 0, 255).astype(np.uint8)
    return as_alpha(soft), estimate_foreground(photo, soft, "multilevel")


def _first_visible(shades: list[Alpha], alpha: Alpha) -> Alpha:
    """Return the first shade that is visible beside the object."""
    for shade in shades:
        if np.count_nonzero(shade * (1 - alpha) > MIN_OPACITY) >= MIN_SHARE * np.count_nonzero(alpha > 0.5):
            return shade
    raise ValueError("there is no room beside the object to show its shadow or reflection")


def _backdrop(size: Size, base: int, rng: np.random.Generator, *, dark: bool) -> Floats:
    """Draw the wall above, the floor below and a soft bend behind the object; (H, W, 3) float32 in [0, 255]."""
    level = rng.uniform(25, 70) if dark else rng.uniform(165, 245)
    tint = level * (1 + rng.uniform(-0.05, 0.05, 3))
    wall, floor = tint * rng.uniform(0.85, 1.0), tint * rng.uniform(0.92, 1.04)
    bend = base - size.height * rng.uniform(0.08, 0.35)
    rows = np.clip((np.arange(size.height) - bend) / (size.height * rng.uniform(0.1, 0.3)) + 0.5, 0, 1)
    rows = (rows * rows * (3 - 2 * rows))[:, None]
    across, down = np.meshgrid(np.linspace(-1, 1, size.width), np.linspace(-1, 1, size.height))
    light = 1 - rng.uniform(0.03, 0.2) * ((across - rng.uniform(-0.5, 0.5)) ** 2 + (down - rng.uniform(-0.5, 0.2)) ** 2) / 2
    return np.asarray((wall * (1 - rows) + floor * rows)[:, None, :] * light[..., None], np.float32)


def _lamp_shadow(alpha: Alpha, base: int, tall: int, side: int, rng: np.random.Generator) -> Alpha:
    """Shear the silhouette onto the floor from its lowest row, softer and fainter with distance; opacity (H, W)."""
    lean, squash = side * rng.uniform(0.4, 1.1), rng.uniform(0.15, 0.45)
    shear = np.array([[1, -lean, lean * base], [0, squash, base * (1 - squash)]])
    height, width = alpha.shape
    silhouette = np.asarray(cv2.warpAffine(alpha, shear, (width, height)), np.float32)
    near, far = (cv2.GaussianBlur(silhouette, (0, 0), max(0.6, tall * share)) for share in (0.008, rng.uniform(0.03, 0.06)))
    away = np.clip((base - np.arange(height, dtype=np.float32)) / (squash * tall), 0, 1)[:, None]
    strength = rng.uniform(0.45, 0.8) * (1 - rng.uniform(0.2, 0.5) * away)
    return np.asarray((near * (1 - away) + far * away) * strength, np.float32)


def _reflection(alpha: Alpha, colours: Pixels, base: int, tall: int, rng: np.random.Generator) -> tuple[Alpha, Floats]:
    """Mirror the object below its lowest row, fading with depth; opacity (H, W) and colours (H, W, 3)."""
    height, width = alpha.shape
    mirror = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 2.0 * base - 1]])
    premultiplied = np.dstack([colours * broadcast_alpha(alpha), alpha])
    mirrored = cv2.GaussianBlur(cv2.warpAffine(premultiplied, mirror, (width, height)), (0, 0), rng.uniform(0.5, 2.0))
    depth = (np.arange(height, dtype=np.float32) - base)[:, None] / (tall * rng.uniform(0.25, 0.6))
    fading = np.where(depth < 0, 0, np.exp(-np.maximum(depth, 0))) * rng.uniform(0.35, 0.7)
    opacity = np.asarray(mirrored[..., 3], np.float32)
    return np.asarray(opacity * fading, np.float32), mirrored[..., :3] / broadcast_alpha(np.maximum(opacity, 1e-3))
