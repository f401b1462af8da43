"""Define what a detector returns, and choose the box of an item from it. Imports no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline.config.detector import Detector
from pipeline.errors import ItemError, PromptError
from pipeline.types import Box, Pixels, Size

SAME_OBJECT = 0.8
"""IoU from which two boxes of one name count as the same object. Detectors of queries return some objects twice."""

MIN_SIDE_PX = 1.0
"""Smallest side of a box inside the image."""


class Detection(NamedTuple):
    """An object that was found by name."""

    box: Box
    """Inside the image."""
    score: float
    """In [0, 1]."""
    label: str
    """The name, as it was given."""


class Find(Protocol):
    """A loaded detector. Threads may share it."""

    device: str

    def __call__(self, images: Sequence[Pixels], names: Sequence[tuple[str, ...]]) -> list[list[Detection] | ItemError]:
        """Find the named objects in each image; a batch gives the results of its items.

        Args:
            images: (H, W, 3) uint8 each, of any sizes.
            names: At least one per image.

        Returns:
            All boxes whose score is above the threshold, which may exceed the image; or the error of an image, such as that of
            names that cannot be used.

        Raises:
            SegmentError: The network failed or ran out of memory.
            BrokenDevice: The GPU is lost.
        """
        ...


def tidy(found: Sequence[Detection], size: Size, max_boxes: int) -> list[Detection]:
    """Return the boxes clipped to the image, best first, each object once, at most ``max_boxes``."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda one: -one.score):
        box = _clip(one.box, size)
        if min(box.x1 - box.x0, box.y1 - box.y0) < MIN_SIDE_PX:
            continue
        if all(other.label != one.label or iou(other.box, box) < SAME_OBJECT for other in kept):
            kept.append(one._replace(box=box))
        if len(kept) == max_boxes:
            break
    return kept


def choose(found: Sequence[Detection], settings: Detector) -> Detection | None:
    """Return the box of an item from ``tidy``'s; None if nothing was found.

    ``many: union`` gives the smallest box around all, with the label and score of the best.
    """
    if not found or settings.many == "best":
        return found[0] if found else None
    corners = np.array([one.box for one in found])
    return found[0]._replace(box=Box(*corners[:, :2].min(0).tolist(), *corners[:, 2:].max(0).tolist()))


def not_found(names: Sequence[str], settings: Detector) -> PromptError:
    """Return the error of an item in which nothing was found."""
    listed = ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
    return PromptError(
        f"no {listed} was found with a score above {settings.threshold:g}; try another name, lower "
        "recipe.detector.threshold, or give a box"
    )


def iou(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    common = max(width, 0.0) * max(height, 0.0)
    return common / (_area(one) + _area(other) - common)


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)


def _clip(box: Box, size: Size) -> Box:
    values: Any = np.nan_to_num(np.array(box, np.float64)).clip(0, [size.width, size.height] * 2)
    return Box(*values.tolist())
