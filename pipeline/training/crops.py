"""Choose the part of a photo that a training frame shows: all of it, most of it, or an object's box as in a job with boxes.

People and detectors draw boxes with a margin that varies on every side. Beside a second photo, or on a background with other
objects, only the box says which object is meant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.material import Material, transform
from pipeline.types import Alpha, Mask, Pixels, Region

BOX_MARGIN = 0.05
"""Margin on each side of a box, as a share of the side; the value of the presets."""

Colours = npt.NDArray[np.floating[Any]]
"""(h, w, 4): premultiplied or straight RGBA in [0, 1]."""

OBJECT_ABOVE = 127
"""Alpha above this counts as object where a box is drawn."""


class Photo(NamedTuple):
    """An image (H, W, 3) uint8 and its ground truth ``alpha`` (H, W) uint8."""

    image: Pixels
    alpha: Mask


class Crop(NamedTuple):
    """A region of a photo."""

    photo: Photo
    region: Region


def crop_photo(photo: Photo, rng: np.random.Generator) -> Crop:
    """Crop nothing, or to a part that keeps most of the object."""
    height, width = photo.alpha.shape
    everything = Crop(photo, (0, 0, width, height))
    if rng.random() < 0.5:
        return everything
    across, down = (max(1, round(rng.uniform(0.6, 1) * side)) for side in (width, height))
    x0, y0 = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    part = photo.alpha[y0 : y0 + down, x0 : x0 + across]
    enough = int(part.sum(dtype=np.int64)) >= 0.6 * int(photo.alpha.sum(dtype=np.int64))
    return Crop(photo, (x0, y0, x0 + across, y0 + down)) if enough else everything


def crop_to_box(photo: Photo, rng: np.random.Generator) -> Crop:
    """Crop to the box of all objects with varying margins. Without an object, crop as ``crop_photo`` does."""
    box = bounding_box(photo.alpha)
    if box is None:
        return crop_photo(photo, rng)
    x0, y0, x1, y1 = box
    as_preset = rng.random() < 0.4
    margins = np.full(4, BOX_MARGIN) if as_preset else rng.uniform(-0.02, 0.25, 4)
    left, top, right, bottom = (margins * np.tile([x1 - x0, y1 - y0], 2)).astype(int)
    height, width = photo.alpha.shape
    return Crop(photo, (max(0, x0 - left), max(0, y0 - top), min(width, x1 + right), min(height, y1 + bottom)))


def crop_to_rough_box(photo: Photo, box: Region, rng: np.random.Generator) -> Crop:
    """Crop to a box as people and detectors draw it: tight, loose on every side, displaced, or through the object."""
    height, width = photo.alpha.shape
    moved = np.array(box, float) + rough_shift(rng) * np.tile([box[2] - box[0], box[3] - box[1]], 2)
    margins = BOX_MARGIN * np.tile([moved[2] - moved[0], moved[3] - moved[1]], 2) * (-1, -1, 1, 1)
    x0, y0, x1, y1 = np.clip(np.rint(moved + margins), 0, (width, height, width, height)).astype(int).tolist()
    return Crop(photo, (x0, y0, x1, y1) if x1 - x0 >= 4 and y1 - y0 >= 4 else (0, 0, width, height))


def rough_shift(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw how far the edges x0, y0, x1, y1 of a box are from the object's, as shares of its width and height."""
    outward = np.array([-1, -1, 1, 1])
    kind = rng.random()
    if kind < 0.35:
        return rng.normal(0, 0.01, 4)
    if kind < 0.7:
        return outward * rng.uniform(0, rng.uniform(0.05, 0.6), 4)
    if kind < 0.85:
        return np.tile(rng.uniform(-0.15, 0.15, 2), 2)
    return -outward * rng.uniform(0, 0.2, 4) * (rng.random(4) < 0.5)


def bounding_box(alpha: Mask) -> Region | None:
    """Return the box around the object pixels, or None if it is smaller than 4 × 4 pixels."""
    inside = alpha > OBJECT_ABOVE
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    if len(columns) < 4 or len(rows) < 4:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def keep_one_object(photo: Photo, rng: np.random.Generator) -> Photo:
    """Keep one object in the ground truth if it has several separate ones. Otherwise return the photo."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((photo.alpha > OBJECT_ABOVE).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = 1 + np.flatnonzero(areas >= 0.25 * areas.max(initial=0))
    if count < 3 or len(large) < 2:
        return photo
    chosen = labels == int(rng.choice(large))
    near = cv2.dilate(chosen.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # includes its soft edge
    return Photo(photo.image, np.where(near, photo.alpha, 0).astype(np.uint8))


def side_by_side(photo: Photo, other: Photo, rng: np.random.Generator) -> Photo:
    """Join a photo and another one, scaled to the same height or width, whose objects become background."""
    upright = bool(rng.random() < 0.5)
    side = photo.alpha.shape[1 if upright else 0]
    height, width = other.alpha.shape
    scaled = (side, max(1, round(height * side / width))) if upright else (max(1, round(width * side / height)), side)
    neighbour = cv2.resize(other.image, scaled, interpolation=cv2.INTER_AREA if side < max(height, width) else cv2.INTER_LINEAR)
    images, alphas = [photo.image, neighbour], [photo.alpha, np.zeros(neighbour.shape[:2], np.uint8)]
    if rng.random() < 0.5:
        images, alphas = images[::-1], alphas[::-1]
    axis = 0 if upright else 1
    return Photo(np.concatenate(images, axis), np.concatenate(alphas, axis))


def composite(material: Material, rng: np.random.Generator, side: int) -> tuple[Photo, bool]:
    """Compose one to three objects with shadows on a background (side, side). Objects may reach past its edge.

    Returns:
        The photo, and whether the ground truth is one object of several, which only a box can tell.
    """
    canvas: npt.NDArray[np.floating[Any]] = material.background(rng, "train", side).astype(np.float32)
    if rng.random() < 0.3:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(1, 5))), np.float32)
    count = int(rng.choice([1, 1, 2, 3]))
    needs_box = count > 1 and bool(rng.random() < 0.6)
    alpha = np.zeros((side, side), np.float32)
    for number in range(count):
        layer = _place_object(material.object(rng, "train"), rng, side, crowded=count > 1)
        if rng.random() < 0.5:
            canvas *= 1 - float(rng.uniform(0.2, 0.6)) * _shadow(layer[..., 3], rng)[..., None]
        canvas = layer[..., :3] * 255 + (1 - layer[..., 3:]) * canvas
        target = not needs_box or number == count - 1  # nothing covers the last one
        alpha = (1 - layer[..., 3]) * alpha + (layer[..., 3] if target else 0)
    planes = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (canvas, alpha * 255))
    return Photo(*planes), needs_box


def _place_object(rgba: Colours, rng: np.random.Generator, side: int, *, crowded: bool) -> Colours:
    """Turn and resize an object (h, w, 4) in [0, 1] on an empty canvas (side, side, 4), premultiplied."""
    scale = rng.uniform(0.35, 0.95) * side / max(rgba.shape[:2]) / (1.5 if crowded else 1)
    angle, centre = rng.uniform(-35, 35), rng.uniform(0.2, 0.8, 2) * side
    placed = np.clip(transform(rgba, scale, angle, centre, side, cv2.INTER_LINEAR), 0, 1)
    return placed[:, ::-1] if rng.random() < 0.5 else placed


def _shadow(alpha: Alpha, rng: np.random.Generator) -> Colours:
    """Return an object's shadow: its own outline, displaced and blurred."""
    side = len(alpha)
    move = np.array([[1, 0, rng.uniform(-0.06, 0.06) * side], [0, 1, rng.uniform(0, 0.08) * side]], np.float32)
    moved = cv2.warpAffine(np.ascontiguousarray(alpha), move, (side, side))
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), float(rng.uniform(0.005, 0.03) * side)))
