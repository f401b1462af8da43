"""A photo's object on a studio sweep, with the shadow that it casts or its reflection in the floor.

Neither is part of the object, and networks take both for it. Of such a picture the true mask is known, as the object stays
where it was, at its size. The sweep is a wall that bends into a floor, lit unevenly, with a camera's grain.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.config.rendition import Shadow
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.multilevel import broadcast_alpha
from pipeline.imaging.renditions.shadow import cast
from pipeline.imaging.rle import HALF
from pipeline.types import Alpha, Mask, Pixels, Size, as_alpha

SEEN, SEEN_SHARE = 0.15, 0.03
"""A shadow or a reflection is one where it covers so much of the floor, on an area of so much of the object's at least."""

BINARY = 0.01
"""With fewer half-transparent pixels than this share of the object's, a mask is binary: its edge is drawn softer, inside."""

Floats = npt.NDArray[np.floating[Any]]


def on_sweep(photo: Pixels, truth: Mask, what: Literal["shadow", "reflection"], rng: np.random.Generator) -> Pixels:
    """The picture, (H, W, 3), of a photo's object, (H, W).

    Raises:
        ValueError: there is no room: little of the floor beside or below the object is in the frame.
    """
    alpha, colours = cut(photo, truth)
    box = cv2.boundingRect((truth >= HALF).astype(np.uint8))
    base = box[1] + box[3]
    floor = _sweep(Size(*truth.shape), base, rng, dark=what == "reflection" and rng.random() < 0.4)
    if what == "shadow":
        shade = _visible([_shadow(alpha, base, box[3], side, rng) for side in rng.permutation([-1, 1])], alpha)
        floor *= broadcast_alpha(1 - shade)
    else:
        share, mirrored = _reflection(alpha, colours, base, box[3], rng)
        share = _visible([share], alpha)
        floor += broadcast_alpha(share) * (mirrored - floor)
    contact = cast(Shadow(opacity=float(rng.uniform(0.3, 0.6))), alpha, 0, 0, Size(*truth.shape))
    if contact is not None:
        rows, columns = contact.opacity.shape
        floor[contact.top : contact.top + rows, contact.left : contact.left + columns] *= broadcast_alpha(1 - contact.opacity)
    floor += rng.normal(0, rng.uniform(0.5, 2.5), truth.shape).astype(np.float32)[..., None]
    floor += broadcast_alpha(alpha) * (colours - floor)
    return np.asarray(np.clip(np.rint(floor), 0, 255), np.uint8)


def cut(photo: Pixels, truth: Mask) -> tuple[Alpha, Pixels]:
    """The opacity (H, W) with which a photo's object is laid on something else, and its own colours (H, W, 3)."""
    half = np.count_nonzero((truth > 0) & (truth < 255))
    soft = truth
    if half < BINARY * np.count_nonzero(truth):
        # A hand-drawn mask has the mixed pixels of the edge inside; what is left of them must not shine on another ground.
        inward = np.asarray(cv2.GaussianBlur(truth, (0, 0), 0.9), np.float32)
        soft = np.clip((inward - 110) * (255 / 120), 0, 255).astype(np.uint8)
    return as_alpha(soft), estimate_foreground(photo, soft, "multilevel")


def _visible(shades: list[Alpha], alpha: Alpha) -> Alpha:
    """The first that can be seen beside the object."""
    for shade in shades:
        if np.count_nonzero(shade * (1 - alpha) > SEEN) >= SEEN_SHARE * np.count_nonzero(alpha > 0.5):
            return shade
    raise ValueError("there is no room beside the object to show it on the floor")


def _sweep(size: Size, base: int, rng: np.random.Generator, *, dark: bool) -> Floats:
    """(H, W, 3) float32 in [0, 255]: wall above, floor below, a soft bend between them behind the object."""
    level = rng.uniform(25, 70) if dark else rng.uniform(165, 245)
    tint = level * (1 + rng.uniform(-0.05, 0.05, 3))
    wall, floor = tint * rng.uniform(0.85, 1.0), tint * rng.uniform(0.92, 1.04)
    bend = base - size.height * rng.uniform(0.08, 0.35)
    rows = np.clip((np.arange(size.height) - bend) / (size.height * rng.uniform(0.1, 0.3)) + 0.5, 0, 1)
    rows = (rows * rows * (3 - 2 * rows))[:, None]
    across, down = np.meshgrid(np.linspace(-1, 1, size.width), np.linspace(-1, 1, size.height))
    light = 1 - rng.uniform(0.03, 0.2) * ((across - rng.uniform(-0.5, 0.5)) ** 2 + (down - rng.uniform(-0.5, 0.2)) ** 2) / 2
    return np.asarray((wall * (1 - rows) + floor * rows)[:, None, :] * light[..., None], np.float32)


def _shadow(alpha: Alpha, base: int, tall: int, side: int, rng: np.random.Generator) -> Alpha:
    """Opacity (H, W) of a lamp's shadow: the silhouette laid down from its lowest row, softer and fainter with distance."""
    lean, squash = side * rng.uniform(0.4, 1.1), rng.uniform(0.15, 0.45)
    laid = np.array([[1, -lean, lean * base], [0, squash, base * (1 - squash)]])
    height, width = alpha.shape
    fallen = np.asarray(cv2.warpAffine(alpha, laid, (width, height)), np.float32)
    near, far = (cv2.GaussianBlur(fallen, (0, 0), max(0.6, tall * share)) for share in (0.008, rng.uniform(0.03, 0.06)))
    away = np.clip((base - np.arange(height, dtype=np.float32)) / (squash * tall), 0, 1)[:, None]
    strength = rng.uniform(0.45, 0.8) * (1 - rng.uniform(0.2, 0.5) * away)
    return np.asarray((near * (1 - away) + far * away) * strength, np.float32)


def _reflection(alpha: Alpha, colours: Pixels, base: int, tall: int, rng: np.random.Generator) -> tuple[Alpha, Floats]:
    """Opacity (H, W) and colours (H, W, 3) of the object upside down below its lowest row, fading with depth."""
    height, width = alpha.shape
    turned = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 2.0 * base - 1]])
    laid = np.dstack([colours * broadcast_alpha(alpha), alpha])
    mirrored = cv2.GaussianBlur(cv2.warpAffine(laid, turned, (width, height)), (0, 0), rng.uniform(0.5, 2.0))
    depth = (np.arange(height, dtype=np.float32) - base)[:, None] / (tall * rng.uniform(0.25, 0.6))
    fading = np.where(depth < 0, 0, np.exp(-np.maximum(depth, 0))) * rng.uniform(0.35, 0.7)
    opacity = np.asarray(mirrored[..., 3], np.float32)
    return np.asarray(opacity * fading, np.float32), mirrored[..., :3] / broadcast_alpha(np.maximum(opacity, 1e-3))
