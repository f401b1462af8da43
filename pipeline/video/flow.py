"""Optical flow between frames: carry masks and boxes from one frame to the next, and notice scene cuts."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.types import Mask, Pixels

FLOW_PX = 256
"""Longer side of the frames that the flow is computed on."""

CUT_TRUST = 0.15
"""Mean trust below which two frames belong to different scenes. Measured: above 0.5 in a scene, below 0.05 between scenes."""

MISFIT = 24.0
"""Difference of levels at which half of the trust in a carried pixel is lost."""

ASTRAY_PX = 1.5
"""Pixels of the small frame by which flow forth and back may miss, at which half of the trust is lost."""


class Small(NamedTuple):
    """A frame for the flow: (h, w) uint8 grey, and how many pixels of the frame one of its pixels is."""

    grey: npt.NDArray[np.uint8]
    scale: float


class Motion(NamedTuple):
    """From where each pixel of a frame came in another one.

    Attributes:
        source: (h, w, 2) float32: x and y in the other small frame.
        trust: (h, w) float32 in [0, 1]: 1 where colours and the way back agree.
        is_cut: Whether the two belong to different scenes.
    """

    source: npt.NDArray[np.float32]
    trust: npt.NDArray[np.float32]
    is_cut: bool


def shrink(pixels: Pixels) -> Small:
    """Return a frame, (H, W, 3) uint8, as the flow needs it."""
    height, width = pixels.shape[:2]
    scale = max(1.0, max(height, width) / FLOW_PX)
    size = max(16, round(width / scale)), max(16, round(height / scale))
    grey = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return Small(np.asarray(grey, np.uint8), scale)


def motion(frame: Small, other: Small) -> Motion:
    """Return from where the pixels of a frame came in the other one."""
    return both_ways(frame, other)[0]


def both_ways(frame: Small, other: Small) -> tuple[Motion, Motion]:
    """Return from where the pixels of a frame came in the other one, and from where the other's came in the frame."""
    finder: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    there = finder.calc(frame.grey, other.grey, None)
    back = finder.calc(other.grey, frame.grey, None)
    return _motion(frame, other, there, back), _motion(other, frame, back, there)


def _motion(frame: Small, other: Small, there: npt.NDArray[np.float32], back: npt.NDArray[np.float32]) -> Motion:
    """Return the motion of the flow there, (h, w, 2) float32, which the flow back confirms or not."""
    height, width = frame.grey.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    source = np.dstack([x + there[..., 0], y + there[..., 1]])
    returned = there + _sampled(back, source)
    carried = _sampled(other.grey, source)
    misfit = cv2.blur(cv2.absdiff(frame.grey, carried).astype(np.float32), (5, 5))
    astray = np.sqrt((returned**2).sum(axis=2))
    inside = (source[..., 0] >= 0) & (source[..., 0] < width) & (source[..., 1] >= 0) & (source[..., 1] < height)
    trust = inside / (1 + (misfit / MISFIT) ** 2) / (1 + (astray / ASTRAY_PX) ** 2)
    return Motion(source, trust.astype(np.float32), bool(trust.mean() < CUT_TRUST))


def carry(mask: Mask, moved: Motion) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Carry a mask of the other frame to the frame.

    Args:
        mask: (H, W) uint8, of the other frame.
        moved: The motion.

    Returns:
        The mask and the trust in it, (H, W) float32: 0 to 255, and 0 to 1.
    """
    height, width = mask.shape
    small_height, small_width = moved.trust.shape
    ratio = np.array([width / small_width, height / small_height], np.float32)
    source: Any = cv2.resize(moved.source, (width, height), interpolation=cv2.INTER_LINEAR) * ratio
    source += (ratio - 1) / 2  # centres of pixels
    trust: Any = cv2.resize(moved.trust, (width, height), interpolation=cv2.INTER_LINEAR)
    return _sampled(mask, source).astype(np.float32), trust


def _sampled(picture: npt.NDArray[Any], source: npt.NDArray[np.float32]) -> Any:
    """Return what a picture shows at positions (h, w, 2) of x and y; beyond its border, the border."""
    return cv2.remap(picture, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
