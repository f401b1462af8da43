"""What kind of object a true mask shows, as far as the mask can tell: tags by which an evaluation is broken down."""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipeline.types import Mask

HALF = 128
THIN = 0.04
"""What is narrower than this share of the object's own diagonal is thin: a person far away isn't, the spokes of a wheel are."""
THIN_SHARE = 0.15
"""An object is called thin from this share of its area on."""


def tags(truth: Mask) -> tuple[str, ...]:
    """Of a true mask, (H, W) uint8: ``border`` where the object touches the picture's border, ``thin`` where 15 % of it is
    narrower than 4 % of the diagonal of its bounding box: straps, legs, spokes. A truth without an object has none.
    """
    inside = (truth >= HALF).astype(np.uint8)
    if not inside.any():
        return ()
    found = []
    if inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any():
        found.append("border")
    if thin_share(inside) >= THIN_SHARE:
        found.append("thin")
    return tuple(found)


def thin_share(inside: Mask) -> float:
    """The share of an object's area, (H, W) uint8 of 0 and 1, that an opening by a disc of that width takes away; [0, 1].

    0 where the object is too small to tell. Beyond the picture's border the object goes on as it ends: a leg that is cut off
    is no thinner there.
    """
    _, _, width, height = cv2.boundingRect(inside)
    radius = int(THIN * math.hypot(height, width) / 2)
    if not radius:
        return 0.0
    disc, margin = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), 2 * radius
    wide = cv2.copyMakeBorder(inside, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(wide, cv2.MORPH_OPEN, disc)[margin:-margin, margin:-margin]
    return 1 - np.count_nonzero(inside[opened > 0]) / np.count_nonzero(inside)
