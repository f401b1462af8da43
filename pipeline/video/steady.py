"""Keep to one object from frame to frame, and carry masks over frames that the model does not see.

What flickers in a video that is cut out frame by frame is the choice of the object more than its edge. So the mask of a frame
is carried to the next one by optical flow, and its box is the prompt there. If the mask that comes back is of something else,
the whole frame is searched again. Nothing is carried over a scene cut.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.errors import ItemError, SegmentError
from pipeline.models.cascade import Segment
from pipeline.segmenter import Segmenter
from pipeline.types import Box, Mask
from pipeline.video.flow import Motion, Small, both_ways, carry, motion, shrink
from pipeline.video.reader import Frame

OBJECT = 128
"""Alpha from which a pixel counts as the object's."""

MARGIN = 0.1
"""Margin of a carried box, as a share of its sides: what the object may grow and flow may miss."""

SMALLEST = 0.0005
"""Share of the frame below which a mask is no object to carry on."""

SAME = 0.5
"""IoU of a mask with the carried one from which it shows the same object without a doubt."""

CHANGED = "object_changed"
"""Reason of a frame whose mask is not like the carried one, after the second look, too."""

MAX_REASONS = 2

BLEND = 0.6
"""Share of the carried mask in the mask of a frame where the motion is trusted."""


class MaskedFrame(NamedTuple):
    """A frame with its mask.

    Attributes:
        frame: The frame.
        mask: (H, W) uint8.
        quality: Of the mask; between two frames that the model has seen, the lower one of theirs.
        reasons: What lowered it most.
        flicker: Mean |alpha - alpha of the frame before, carried by motion|, where that can be trusted; None for the first
            frame and after a scene cut.
    """

    frame: Frame
    mask: Mask
    quality: float
    reasons: tuple[str, ...] = ()
    flicker: float | None = None


class _Seen(NamedTuple):
    """A frame, small, with its mask at full size."""

    small: Small
    mask: Mask


class _Step(NamedTuple):
    """From where the pixels of a frame came in the frame before, and from where those of the frame before came in it."""

    moved: Motion
    back: Motion


class Steady:
    """Finds the masks of a video's frames. Call it with windows of frames in order.

    Args:
        segmenter: The model.
        unit: Seconds per unit of the frames' times, for errors.
        box: Around the object in the first frame; None: what the model takes for the object there.
        every: The model sees every so many frames; the masks between are carried from both sides.
        alone: Take each mask as the model gives it for the frame alone, with ``every=1``. Motion measures the flicker only.
    """

    def __init__(
        self, segmenter: Segmenter, unit: Fraction, box: Box | None = None, every: int = 1, *, alone: bool = False
    ) -> None:
        self.segmenter, self.unit, self.every, self.alone = segmenter, unit, every, alone
        self._box = box
        self._last: _Seen | None = None

    def agrees(self, frame: Frame, mask: Mask) -> bool:
        """Return whether the mask of the next frame shows the object that was carried so far, as far as one is known."""
        expected = None if self._last is None else self._expected([motion(shrink(frame.pixels), self._last.small)])[0]
        return expected is None or _likeness(mask, expected) >= SAME

    def go_on_from(self, frame: Frame, mask: Mask) -> None:
        """Take a frame whose mask (H, W) uint8 is known for the last one that was seen."""
        self._last, self._box = _Seen(shrink(frame.pixels), mask), None

    def __call__(self, frames: list[Frame]) -> list[MaskedFrame]:
        """Return the frames of a window with their masks.

        Raises:
            SegmentError: The model failed on a frame. The message names its time.
        """
        smalls = [shrink(frame.pixels) for frame in frames]
        steps = self._steps(smalls)
        moved = [None if step is None else step.moved for step in steps]
        expected = self._expected(moved)
        asked = [
            number
            for number, one in enumerate(moved)
            if (number + 1) % self.every == 0 or number + 1 == len(frames) or one is None or one.is_cut
        ]
        found = self._ask(frames, asked, expected)
        known = {number: _Seen(smalls[number], segment.mask) for number, segment in found.items()}
        if self._last is not None:
            known[-1] = self._last
        scores = {number: segment.score for number, segment in found.items()}
        masks, sources = [], []
        for number in range(len(frames)):
            before = max((one for one in known if one <= number), default=number)
            after = min(one for one in known if one >= number)
            if number in found:
                masks.append(known[number].mask)
            else:
                near = moved[number] if before == number - 1 else None
                step = steps[after] if after == number + 1 else None
                masks.append(_between(smalls[number], known[before], known[after], near, step.back if step else None))
            near_scores = (scores[one] for one in (before, after) if one in scores)
            sources.append(min(near_scores, key=lambda one: one.quality))
        last = None if self._last is None else self._last.mask
        masks, flickers = _steadied(masks, last, steps, 0.0 if self.alone else BLEND)
        self._last = _Seen(smalls[-1], masks[-1])
        return [
            MaskedFrame(frame, mask, score.quality, score.reasons, flicker)
            for frame, mask, score, flicker in zip(frames, masks, sources, flickers, strict=True)
        ]

    def _steps(self, smalls: list[Small]) -> list[_Step | None]:
        """Return the motion from each frame's predecessor; None for the first frame of a video."""
        previous = [None if self._last is None else self._last.small, *smalls[:-1]]
        pairs = zip(smalls, previous, strict=True)
        return [None if old is None else _Step(*both_ways(small, old)) for small, old in pairs]

    def _expected(self, moved: list[Motion | None]) -> list[Mask | None]:
        """Carry the last mask through the window; None: nothing is known of the object, or nothing is to be carried."""
        if self.alone:
            return [None] * len(moved)
        mask = None if self._last is None else _shrunk(*self._last)
        expected: list[Mask | None] = []
        for one in moved:
            mask = None if mask is None or one is None or one.is_cut else np.rint(carry(mask, one)[0]).astype(np.uint8)
            if mask is not None and np.mean(mask >= OBJECT) < SMALLEST:
                mask = None
            expected.append(mask)
        return expected

    def _ask(self, frames: list[Frame], asked: list[int], expected: list[Mask | None]) -> dict[int, Segment]:
        """Ask the model for masks, with the carried boxes; and again without, where it shows another object."""
        boxes = {number: _box_of(expected[number], frames[number]) for number in asked}
        if self._box is not None:
            boxes[0], self._box = self._box, None
        found = self._segments(frames, boxes)
        carried = {number: mask for number in asked if (mask := expected[number]) is not None}
        doubtful = [number for number, mask in carried.items() if _likeness(found[number].mask, mask) < SAME]
        for number, other in self._segments(frames, dict.fromkeys(doubtful)).items():
            if _likeness(other.mask, carried[number]) > _likeness(found[number].mask, carried[number]):
                found[number] = other
            found[number] = _doubted(found[number], _likeness(found[number].mask, carried[number]))
        return found

    def _segments(self, frames: list[Frame], boxes: dict[int, Box | None]) -> dict[int, Segment]:
        numbers = list(boxes)
        segments = self.segmenter.segment([frames[number].pixels for number in numbers], [boxes[number] for number in numbers])
        found = {}
        for number, segment in zip(numbers, segments, strict=True):
            if isinstance(segment, ItemError):
                raise SegmentError(f"at {float(frames[number].pts * self.unit):.2f} s: {segment}") from segment
            found[number] = segment
        return found


def _doubted(segment: Segment, likeness: float) -> Segment:
    """Lower the quality of a mask that is not like the carried one: another object may have been found."""
    if likeness >= SAME:
        return segment
    reasons = (CHANGED, *segment.score.reasons)[:MAX_REASONS]
    return replace(segment, score=replace(segment.score, quality=segment.score.quality * likeness / SAME, reasons=reasons))


def _steadied(
    masks: list[Mask], last: Mask | None, steps: list[_Step | None], share: float
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
            masks[number], _ = _blended(masks[number], before, step.moved, share)
    for number in range(len(masks) - 1, 0, -1):
        if (step := joined[number]) is not None:
            masks[number - 1], flickers[number] = _blended(masks[number - 1], masks[number], step.back, share)
    if (step := joined[0]) is not None and last is not None:
        _, flickers[0] = _blended(masks[0], last, step.moved, 0.0)
    return masks, flickers


def _blended(mask: Mask, other: Mask, moved: Motion, share: float) -> tuple[Mask, float]:
    """Blend a share of the carried mask of the frame beside it into a mask, where it can be trusted.

    Returns:
        The mask, and the mean difference that is left, in [0, 1].
    """
    carried, trust = carry(other, moved)
    change = trust * (carried - mask)
    blended: Mask = np.rint(mask + share * change).astype(np.uint8)
    return blended, (1 - share) * float(np.abs(change).mean()) / 255


def _between(small: Small, before: _Seen, after: _Seen, from_before: Motion | None, from_after: Motion | None) -> Mask:
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


def _box_of(mask: Mask | None, frame: Frame) -> Box | None:
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


def _shrunk(small: Small, mask: Mask) -> Mask:
    size = small.grey.shape[1], small.grey.shape[0]
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)


def _likeness(mask: Mask, expected: Mask) -> float:
    """Return the IoU of a mask with the small one that was expected."""
    shown = cv2.resize(mask, expected.shape[::-1], interpolation=cv2.INTER_AREA) >= OBJECT
    wanted: npt.NDArray[np.bool_] = expected >= OBJECT
    return float((shown & wanted).sum() / max(1, (shown | wanted).sum()))
