"""Fill small enclosed holes in a model's output, before anything is made from it: the mask, its edges and its score."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.imaging.components import label_parts, nearer

FILLED = 12.0
"""Logit of a filled pixel: opaque, even after rounding to 16 bits."""

EDGE_SHARE = 0.01
"""Width of a hole's soft edge, as a share of the map's side. It becomes opaque with the hole."""


def fill_holes(logits: npt.NDArray[np.float32], below: float) -> npt.NDArray[np.float32]:
    """Fill the holes of one map that are smaller than a share of the object.

    A hole is a part of the background (logits up to 0) that the object encloses: no path of side neighbours leads from it to
    the map's border. What is enclosed on purpose looks the same, such as the inside of a ring or of a cup's handle.

    Args:
        logits: (S, S). Numbers that are not finite are left as they are.
        below: Area of the largest hole that is filled, as a share of the area of the object without its holes. 0 fills none.

    Returns:
        (S, S); the same array if there is nothing to fill.
    """
    inside = np.asarray(logits > 0, np.uint8)
    area = cv2.countNonZero(inside)
    if not below or not area:
        return logits
    # A margin joins all background at the border into one component, that of the first pixel.
    outside = cv2.copyMakeBorder(1 - inside, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    labels, areas = label_parts(outside, connectivity=4)
    small = areas <= below * area
    small[[0, labels[0, 0]]] = False  # the object, and what is around it
    holes = small[labels[1:-1, 1:-1]] & (inside == 0)
    if not holes.any():
        return logits
    filled = nearer(holes, ~holes & (inside == 0), max(3.0, EDGE_SHARE * len(holes)))
    return np.asarray(np.where(filled, np.maximum(logits, np.float32(FILLED)), logits), np.float32)
