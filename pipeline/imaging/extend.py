"""Give transparent pixels the colours of the object beside them."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.types import Mask, Pixels

BLOCK_PX = 8
"""Colours behind the edge are averaged over blocks of this side."""

REACH = 9
"""Blocks, across, over which the object's colours are spread. Farther away it is black."""


def extend_colours(colours: Pixels, mask: Mask) -> Pixels:
    """Replace the colour of transparent pixels by the average of the object's nearby.

    Videos store colours in blocks and with half the resolution: another colour behind the edge would tint it. It also leaves
    nothing of the background in the file, and makes it smaller.

    Args:
        colours: Straight foreground colours, (H, W, 3) uint8.
        mask: (H, W) uint8.
    """
    height, width = mask.shape
    small = (max(1, -(-width // BLOCK_PX)), max(1, -(-height // BLOCK_PX)))
    shown = cv2.resize(np.where(mask[..., None] > 0, colours, 0), small, interpolation=cv2.INTER_AREA).astype(np.float32)
    covered = cv2.resize((mask > 0).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    total, share = cv2.blur(shown, (REACH, REACH)), cv2.blur(covered, (REACH, REACH))
    near = total / np.maximum(share, 1e-3)[..., None]
    near[share < 1e-3] = 0
    wide = cv2.resize(np.clip(near, 0, 255), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(mask[..., None] > 0, colours, np.rint(wide).astype(np.uint8))
