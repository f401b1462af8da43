"""What a detector of fixed input size needs: the image in a square, and boxes without their duplicates."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Pixels


class Letterbox(NamedTuple):
    """An image in the middle of a black square."""

    square: Pixels
    """(S, S, 3) uint8."""
    scale: tuple[float, float]
    """Pixels of the square per pixel of the image, in x and y."""
    offset: tuple[int, int]
    """Place of the image's left and top edge in the square, in pixels."""

    def to_image(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes (N, 4) x0 y0 x1 y1 from the square to pixels of the image. They may exceed it."""
        scale, offset = np.array(self.scale * 2, np.float32), np.array(self.offset * 2, np.float32)
        mapped: npt.NDArray[np.float32] = (boxes - offset) / scale
        return mapped


def letterbox(image: Pixels, side: int) -> Letterbox:
    """Resize an image (H, W, 3) uint8 to ``side`` pixels at its longer side, and put it in the middle of a black square."""
    height, width = image.shape[:2]
    new_width, new_height = (max(1, round(one * side / max(width, height))) for one in (width, height))
    smaller = side < max(width, height)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    left, top = (side - new_width) // 2, (side - new_height) // 2
    square = np.zeros((side, side, 3), np.uint8)
    square[top : top + new_height, left : left + new_width] = resized
    return Letterbox(square, (new_width / width, new_height / height), (left, top))


def without_duplicates(
    boxes: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], threshold: float, overlap: float
) -> list[int]:
    """Return the numbers of the boxes that non-maximum suppression keeps, best first.

    Args:
        boxes: (N, 4) x0 y0 x1 y1.
        scores: (N,) in [0, 1].
        threshold: Lowest score.
        overlap: Intersection over union with a better box, from which on a box is dropped.
    """
    sizes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
    return [int(one) for one in cv2.dnn.NMSBoxes(sizes.tolist(), scores.tolist(), threshold, overlap)]
