"""Which part of a photo a training frame shows: all of it, most of it, or an object's box, as in a job with boxes.

A box is around an object as people and detectors draw them: with a margin on every side that is now too wide, now too
narrow. Beside a second photo, or over a background with other objects, the box alone says which object is meant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.training.material import Material
from pipeline.types import Alpha, Mask, Pixels, Region

MARGIN = 0.05
"""On each side of a box, as presets with boxes have it."""

Colours = npt.NDArray[np.floating[Any]]
"""(h, w, 4): premultiplied or straight RGBA in [0, 1]."""

SURE = 127
"""Alpha above it counts as object where a box is drawn."""


class Photo(NamedTuple):
    """``image`` (H, W, 3) uint8 and its truth ``alpha`` (H, W) uint8."""

    image: Pixels
    alpha: Mask


class Look(NamedTuple):
    """A photo, what of it is looked at, and what is wanted there."""

    photo: Photo
    region: Region


def look_whole(photo: Photo, rng: np.random.Generator) -> Look:
    """All of it, or a part with most of the object."""
    height, width = photo.alpha.shape
    everything = Look(photo, (0, 0, width, height))
    if rng.random() < 0.5:
        return everything
    across, down = (max(1, round(rng.uniform(0.6, 1) * side)) for side in (width, height))
    x0, y0 = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    part = photo.alpha[y0 : y0 + down, x0 : x0 + across]
    kept = int(part.sum(dtype=np.int64)) >= 0.6 * int(photo.alpha.sum(dtype=np.int64))
    return Look(photo, (x0, y0, x0 + across, y0 + down)) if kept else everything


def look_at_box(photo: Photo, rng: np.random.Generator) -> Look:
    """Around the box of the object, or of all objects; where there is none, the whole photo."""
    box = box_of(photo.alpha)
    if box is None:
        return look_whole(photo, rng)
    x0, y0, x1, y1 = box
    drawn = rng.random() < 0.4
    margins = np.full(4, MARGIN) if drawn else rng.uniform(-0.02, 0.25, 4)
    left, top, right, bottom = (margins * np.tile([x1 - x0, y1 - y0], 2)).astype(int)
    height, width = photo.alpha.shape
    region = (max(0, x0 - left), max(0, y0 - top), min(width, x1 + right), min(height, y1 + bottom))
    return Look(photo, region)


def box_of(alpha: Mask) -> Region | None:
    """The box around what is object, or None without any of at least 4 × 4 pixels."""
    inside = alpha > SURE
    columns, rows = np.flatnonzero(inside.any(0)), np.flatnonzero(inside.any(1))
    if len(columns) < 4 or len(rows) < 4:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def one_part(photo: Photo, rng: np.random.Generator) -> Photo:
    """With one of the objects as truth, where the truth has several apart from one another; else as it is."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((photo.alpha > SURE).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    large = 1 + np.flatnonzero(areas >= 0.25 * areas.max(initial=0))
    if count < 3 or len(large) < 2:
        return photo
    chosen = labels == int(rng.choice(large))
    near = cv2.dilate(chosen.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # its soft edge
    return Photo(photo.image, np.where(near, photo.alpha, 0).astype(np.uint8))


def side_by_side(photo: Photo, other: Photo, rng: np.random.Generator) -> Photo:
    """The photo and another one of the same height or width at its side, in which there is nothing to be found."""
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
    """One to three objects with shadows on a background, at times reaching past its edge, side × side.

    Returns:
        The picture, and whether the truth is one object among several: then only a box says which.
    """
    canvas: npt.NDArray[np.floating[Any]] = material.background(rng, "tuning", side).astype(np.float32)
    if rng.random() < 0.3:
        canvas = np.asarray(cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(1, 5))), np.float32)
    count = int(rng.choice([1, 1, 2, 3]))
    alone = count > 1 and bool(rng.random() < 0.6)
    alpha = np.zeros((side, side), np.float32)
    for number in range(count):
        drawn = _lay(material.object(rng, "tuning"), rng, side, crowd=count)
        if rng.random() < 0.5:
            canvas *= 1 - float(rng.uniform(0.2, 0.6)) * _shadow(drawn[..., 3], rng)[..., None]
        canvas = drawn[..., :3] * 255 + (1 - drawn[..., 3:]) * canvas
        wanted = not alone or number == count - 1  # the last one, which nothing covers
        alpha = (1 - drawn[..., 3]) * alpha + (drawn[..., 3] if wanted else 0)
    as_bytes = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in (canvas, alpha * 255))
    return Photo(*as_bytes), alone


def _lay(rgba: Colours, rng: np.random.Generator, side: int, crowd: int) -> Colours:
    """An object (h, w, 4) in [0, 1] turned and resized on an empty canvas (side, side, 4), premultiplied."""
    height, width = rgba.shape[:2]
    size = rng.uniform(0.35, 0.95) * side / max(height, width) / (1 if crowd == 1 else 1.5)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-35, 35)), float(size))
    turn[:, 2] += rng.uniform(0.2, 0.8, 2) * side - (width / 2, height / 2)
    straight = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], 2)
    laid = np.clip(np.asarray(cv2.warpAffine(straight, turn, (side, side), flags=cv2.INTER_LINEAR), np.float32), 0, 1)
    return laid[:, ::-1] if rng.random() < 0.5 else laid


def _shadow(alpha: Alpha, rng: np.random.Generator) -> Colours:
    """Where an object keeps the light away: its own outline, displaced and blurred."""
    side = len(alpha)
    move = np.array([[1, 0, rng.uniform(-0.06, 0.06) * side], [0, 1, rng.uniform(0, 0.08) * side]], np.float32)
    moved = cv2.warpAffine(np.ascontiguousarray(alpha), move, (side, side))
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), float(rng.uniform(0.005, 0.03) * side)))
