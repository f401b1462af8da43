"""Tag the kind of object that a ground-truth mask shows. The evaluation is broken down by these tags."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.types import Mask

HALF = 128
THIN = 0.04
"""A part is thin if its width is below this share of the object's diagonal: a spoke of a wheel, but not a distant person."""
THIN_SHARE = 0.15
"""Share of its area from which on an object counts as thin."""


def tags(ground_truth: Mask) -> tuple[str, ...]:
    """Return the tags of a mask (H, W), uint8. A mask without an object has none.

    ``border``: the object touches the picture's border. ``thin``: 15 % of it is narrower than 4 % of its bounding box's
    diagonal (straps, legs, spokes).
    """
    inside = (ground_truth >= HALF).astype(np.uint8)
    if not inside.any():
        return ()
    names = []
    if inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any():
        names.append("border")
    if thin_share(inside) >= THIN_SHARE:
        names.append("thin")
    return tuple(names)


def thin_share(inside: Mask) -> float:
    """Return the share of an object's area, (H, W) uint8 of 0 and 1, that an opening by a disc of that width removes; [0, 1].

    0 if the object is too small to measure. The object is continued beyond the picture's border, so a leg that is cut off is no
    thinner there.
    """
    _, _, width, height = cv2.boundingRect(inside)
    radius = int(THIN * math.hypot(height, width) / 2)
    if not radius:
        return 0.0
    disc, margin = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), 2 * radius
    wide = cv2.copyMakeBorder(inside, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(wide, cv2.MORPH_OPEN, disc)[margin:-margin, margin:-margin]
    return 1 - np.count_nonzero(inside[opened > 0]) / np.count_nonzero(inside)
