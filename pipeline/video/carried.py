"""Carry masks from frame to frame by known motion: blend them, fill those between, and compare them with what is expected."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Box, Mask
from pipeline.video.flow import Motion, Small, carry, motion
from pipeline.video.reader import Frame

OBJECT = 128
"""Alpha from which a pixel counts as the object's."""

MARGIN = 0.1
"""Margin of a carried box, as a share of its sides: what the object may grow and flow may miss."""


class Seen(NamedTuple):
    """A frame, small, with its mask at full size."""

    small: Small
    mask: Mask


class Step(NamedTuple):
    """From where the pixels of a frame came in the frame before, and from where those of the frame before came in it."""

    moved: Motion
    back: Motion


def steadied(
    masks: list[Mask], last: Mask | None, steps: list[Step | None], share: float
) -> tuple[list[Mask], list[float | None]]:
    """Blend every mask with the carried one of the frame before, then with that of the frame after: less flicker at edges.

    Args:
        masks: Of the frames of a window.
        last: Mask of the frame before the window, which is final; None: there is none.
        steps: Of each frame from the one before.
        share: Of the carried mask, where it can be trusted.

    Returns:
        The masks, and their flicker as in ``MaskedFrame``.
    """
    masks = list(masks)
    flickers: list[float | None] = [None] * len(masks)
    joined = [step if step is not None and not step.moved.is_cut else None for step in steps]
    for number, step in enumerate(joined):
        before = masks[number - 1] if number else last
        if step is not None and before is not None and share:
            masks[number], _ = blended(masks[number], before, step.moved, share)
    for number in range(len(masks) - 1, 0, -1):
        if (step := joined[number]) is not None:
            masks[number - 1], flickers[number] = blended(masks[number - 1], masks[number], step.back, share)
    if (step := joined[0]) is not None and last is not None:
        _, flickers[0] = blended(masks[0], last, step.moved, 0.0)
    return masks, flickers


def blended(mask: Mask, other: Mask, moved: Motion, share: float) -> tuple[Mask, float]:
    """Blend a share of the carried mask of the frame beside it into a mask, where it can be trusted.

    Returns:
        The mask, and the mean difference that is left, in [0, 1].
    """
    carried, trust = carry(other, moved)
    change = trust * (carried - mask)
    blended: Mask = np.rint(mask + share * change).astype(np.uint8)
    return blended, (1 - share) * float(np.abs(change).mean()) / 255


def between(small: Small, before: Seen, after: Seen, from_before: Motion | None, from_after: Motion | None) -> Mask:
    """Carry two masks to a frame between theirs, each weighted by the trust in it. Over a scene cut, the other one counts.

    Args:
        small: The frame.
        before: The last frame with a mask of the model.
        after: The next one.
        from_before: The motion from ``before``, if it is known.
        from_after: The motion from ``after``, if it is known.
    """
    total = np.zeros(after.mask.shape, np.float32)
    weight = np.full(after.mask.shape, 1e-6, np.float32)
    moved = [(before, from_before or motion(small, before.small)), (after, from_after or motion(small, after.small))]
    for seen, one in moved:
        if one.is_cut and not all(other.is_cut for _, other in moved):
            continue
        carried, trust = carry(seen.mask, one)
        trust = np.maximum(trust, 1e-3)
        total += carried * trust
        weight += trust
    mask: Mask = np.rint(total / weight).astype(np.uint8)
    return mask


def box_of(mask: Mask | None, frame: Frame) -> Box | None:
    """Return the box of a small mask in pixels of the frame, with its margin."""
    if mask is None:
        return None
    x, y, width, height = cv2.boundingRect((mask >= OBJECT).astype(np.uint8))
    across, down = frame.pixels.shape[1] / mask.shape[1], frame.pixels.shape[0] / mask.shape[0]
    left, top = x - MARGIN * width, y - MARGIN * height
    right, bottom = x + (1 + MARGIN) * width, y + (1 + MARGIN) * height
    return Box(
        max(0.0, left) * across,
        max(0.0, top) * down,
        min(float(mask.shape[1]), right) * across,
        min(float(mask.shape[0]), bottom) * down,
    )


def shrunk(small: Small, mask: Mask) -> Mask:
    """Return a mask, (H, W) uint8, in the size of its small frame."""
    size = small.grey.shape[1], small.grey.shape[0]
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)


def likeness(mask: Mask, expected: Mask) -> float:
    """Return the IoU of a mask with the small one that was expected."""
    shown = cv2.resize(mask, expected.shape[::-1], interpolation=cv2.INTER_AREA) >= OBJECT
    wanted: npt.NDArray[np.bool_] = expected >= OBJECT
    return float((shown & wanted).sum() / max(1, (shown | wanted).sum()))
