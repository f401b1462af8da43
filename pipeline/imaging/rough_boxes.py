"""Draw boxes around an object as people and detectors do: tight, loose, displaced, cut, or around something else."""

from __future__ import annotations

from typing import Literal, get_args

import cv2
import numpy as np

from pipeline.imaging.rle import HALF
from pipeline.types import Box, Mask

BoxKind = Literal["none", "tight", "loose", "whole", "shifted", "cut", "beside"]
BOX_KINDS: tuple[BoxKind, ...] = get_args(BoxKind)

INCOMPLETE: tuple[BoxKind, ...] = ("shifted", "cut", "beside")
"""Boxes that need not contain the object."""

LOOSE, SHIFT, CUT, WHOLE = 0.6, 0.15, 0.2, 0.02
"""Largest distance on a side of a loose box, and displacement, as shares of the object's width or height; largest share that a
cut removes; distance of a box around everything from the picture's border, as a share of its width or height."""

MAX_COMMON = 0.1
"""Largest share of the object that a box beside it may contain."""

PLACES = 9
"""Positions per axis that a box beside the object is chosen from."""


def rough_box(ground_truth: Mask, kind: BoxKind, seed: int) -> Box | None:
    """Return a box as people and detectors draw it, within the picture. The same arguments always return the same box.

    Args:
        ground_truth: (H, W) uint8.
        kind: ``none``: no box. ``tight``: the object's bounding box. ``loose``: 0 to 60 % of its width or height farther
            out on every side. ``whole``: nearly the complete picture. ``shifted``: displaced by up to 15 %. ``cut``: without 5
            to 20 % on one or two sides. ``beside``: of the object's size, where the least of the object is.
        seed: 0 or more.

    Raises:
        ValueError: There is no object, or no room beside it.
    """
    inside = np.asarray(ground_truth >= HALF, np.uint8)
    if not inside.any():
        raise ValueError("the ground truth has no object")
    if kind == "none":
        return None
    height, width = inside.shape
    x, y, across, down = cv2.boundingRect(inside)
    sides, outward = np.array([across, down] * 2, float), np.array([-1, -1, 1, 1])
    tight = np.array([x, y, x + across, y + down], float)
    rng = np.random.default_rng([seed, BOX_KINDS.index(kind)])
    if kind == "beside":
        return _beside(inside, (across, down))
    if kind == "whole":
        box = np.array([WHOLE * width, WHOLE * height, (1 - WHOLE) * width, (1 - WHOLE) * height])
    elif kind == "loose":
        box = tight + outward * rng.uniform(0, LOOSE, 4) * sides
    elif kind == "shifted":
        box = tight + np.tile(rng.uniform(-SHIFT, SHIFT, 2), 2) * sides
    elif kind == "cut":
        cut = np.zeros(4)
        cut[rng.permutation(4)[: int(rng.integers(1, 3))]] = 1
        box = tight - outward * cut * rng.uniform(CUT / 4, CUT, 4) * sides
    else:
        box = tight
    clipped = np.clip(np.rint(box), 0, (width, height, width, height))
    return Box(*(float(value) for value in clipped))


def _beside(inside: Mask, size: tuple[int, int]) -> Box:
    """Return a box of this width and height, at most half of the picture's, that contains the least of the object."""
    height, width = inside.shape
    across, down = min(size[0], width // 2), min(size[1], height // 2)
    sums = cv2.integral(inside)
    xs, ys = (np.linspace(0, room, PLACES).astype(int) for room in (width - across, height - down))
    found = [
        (int(sums[y + down, x + across] - sums[y, x + across] - sums[y + down, x] + sums[y, x]), x, y) for x in xs for y in ys
    ]
    common, x, y = min(found)
    if common > MAX_COMMON * np.count_nonzero(inside) or min(across, down) < 1:
        raise ValueError("there is no room for a box beside the object")
    return Box(float(x), float(y), float(x + across), float(y + down))
