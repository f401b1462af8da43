"""Keep to one object from frame to frame, and carry masks over frames that the model does not see.

What flickers in a video that is cut out frame by frame is the choice of the object more than its edge. So the mask of a frame
is carried to the next one by optical flow, and its box is the prompt there. If the mask that comes back is of something else,
the whole frame is searched again. Nothing is carried over a scene cut. An object that has a name is looked for by its name
there, and where it was lost.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from pipeline.errors import ItemError, PromptError, SegmentError
from pipeline.models.cascade import Segment
from pipeline.segmenter import Segmenter
from pipeline.types import Box, Mask
from pipeline.video.carried import OBJECT, Seen, Step, between, box_of, likeness, shrunk, steadied
from pipeline.video.flow import Motion, Small, both_ways, carry, motion, shrink
from pipeline.video.named import Named, is_due, look
from pipeline.video.reader import Frame

SMALLEST = 0.0005
"""Share of the frame below which a mask is no object to carry on."""

SAME = 0.5
"""IoU of a mask with the carried one from which it shows the same object without a doubt."""

CHANGED = "object_changed"
"""Reason of a frame whose mask is not like the carried one, after the second look, too."""

MISSING = "object_missing"
"""Reason of a frame in which the named object was not found."""

LOST_QUALITY = 0.5
"""Factor for the quality of a frame whose mask is like the carried one, after that was not like the one before."""

MAX_REASONS = 2
"""Reasons of a frame, and of a video, at most."""

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


class Steady:
    """Finds the masks of a video's frames. Call it with windows of frames in order.

    Args:
        segmenter: The model.
        unit: Seconds per unit of the frames' times, for errors.
        box: Around the object in the first frame; None: what the model takes for the object there.
        every: The model sees every so many frames; the masks between are carried from both sides.
        alone: Take each mask as the model gives it for the frame alone, with ``every=1``. Motion measures the flicker only.
        named: The object, if it has a name, without ``box``. Masks before its time are empty. Unless ``alone``, a detector
            looks for it after a scene cut and a loss; masks are empty while it is not found after a cut, or after it is gone.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        unit: Fraction,
        box: Box | None = None,
        every: int = 1,
        *,
        alone: bool = False,
        named: Named | None = None,
    ) -> None:
        self.segmenter, self.unit, self.every, self.alone, self.named = segmenter, unit, every, alone, named
        self._box = box
        self._last: Seen | None = None
        self._last_pts = 0
        self._is_lost = False

    def agrees(self, frame: Frame, mask: Mask) -> bool:
        """Return whether the mask of the next frame shows the object that was carried so far, as far as one is known."""
        expected = None if self._last is None else self._expected([motion(shrink(frame.pixels), self._last.small)])[0]
        return expected is None or likeness(mask, expected) >= SAME

    def go_on_from(self, one: MaskedFrame) -> None:
        """Take a frame whose mask is known for the last one that was seen."""
        self._end_at(one, shrink(one.frame.pixels))
        self._box = None

    def _end_at(self, one: MaskedFrame, small: Small) -> None:
        """Note the last frame of a window. What is done next depends on what is kept of it, and on nothing else."""
        self._last, self._last_pts, self._is_lost = Seen(small, one.mask), one.frame.pts, CHANGED in one.reasons

    def __call__(self, frames: list[Frame]) -> list[MaskedFrame]:
        """Return the frames of a window with their masks.

        Raises:
            SegmentError: The model or the detector failed on a frame. The message names its time.
        """
        smalls = [shrink(frame.pixels) for frame in frames]
        steps = self._steps(smalls)
        if self.named is None:
            return self._window(frames, smalls, steps)
        made: list[MaskedFrame] = []
        while (done := len(made)) < len(frames):
            made += self._next(self.named, frames[done:], smalls[done:], steps[done:])
        return made

    def _next(self, named: Named, frames: list[Frame], smalls: list[Small], steps: list[Step | None]) -> list[MaskedFrame]:
        """Return the first ones of these frames with masks of the named object: those that need one look, at most."""
        first, small = frames[0], smalls[0]
        if first.pts < named.pts:
            return self._without(first, small)
        if first.pts == named.pts:
            return self._anew(first, small, named.box)
        if self.alone:
            return self._window(frames, smalls, steps)
        expected = self._expected([None if step is None else step.moved for step in steps])
        is_gone, is_time = expected[0] is None, is_due(self._last_pts, first.pts, self.unit)
        is_new_scene = steps[0] is None or steps[0].moved.is_cut
        waits = not is_new_scene and (self._shows_nothing() if is_gone else self._is_lost)
        if (is_gone or self._is_lost) and (is_time or not waits):
            found = self._look(first)
            if not isinstance(found, PromptError):
                return self._anew(first, small, found)
        if is_gone:
            return self._without(first, small, 0.0, (MISSING,))
        times = [frame.pts for frame in frames]
        ends = (
            number
            for number in range(1, len(frames))
            if expected[number] is None or (self._is_lost and is_due(times[number - 1], times[number], self.unit))
        )
        end, was_lost = next(ends, len(frames)), self._is_lost
        made = self._window(frames[:end], smalls[:end], steps[:end])
        if was_lost:
            made = [_still_doubted(one) for one in made]
            self._end_at(made[-1], smalls[end - 1])
        return made

    def _look(self, frame: Frame) -> Box | PromptError | None:
        """Return the box of the named object; None: what the model takes for the object."""
        assert self.named is not None, "the object has a name"
        try:
            found = look(self.segmenter, frame, self.named.names)
        except ItemError as error:
            raise self._failed(frame, error) from error
        return found if found is None or isinstance(found, PromptError) else found.box

    def _shows_nothing(self) -> bool:
        return self._last is not None and float(np.mean(shrunk(*self._last) >= OBJECT)) < SMALLEST

    def _without(self, frame: Frame, small: Small, quality: float = 1.0, reasons: tuple[str, ...] = ()) -> list[MaskedFrame]:
        """Return a frame without an object."""
        made = MaskedFrame(frame, np.zeros(frame.pixels.shape[:2], np.uint8), quality, reasons)
        self._end_at(made, small)
        return [made]

    def _anew(self, frame: Frame, small: Small, box: Box | None) -> list[MaskedFrame]:
        """Return a frame with the object in a box, which nothing is carried to."""
        segment = self._segments([frame], {0: box})[0]
        made = MaskedFrame(frame, segment.mask, segment.score.quality, segment.score.reasons)
        self._end_at(made, small)
        return [made]

    def _window(self, frames: list[Frame], smalls: list[Small], steps: list[Step | None]) -> list[MaskedFrame]:
        """Return frames with their masks. ``steps`` are the motions from each frame's predecessor."""
        moved = [None if step is None else step.moved for step in steps]
        expected = self._expected(moved)
        asked = [
            number
            for number, one in enumerate(moved)
            if (number + 1) % self.every == 0 or number + 1 == len(frames) or one is None or one.is_cut
        ]
        found, renewed = self._ask(frames, asked, expected)
        known = {number: Seen(smalls[number], segment.mask) for number, segment in found.items()}
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
                masks.append(between(smalls[number], known[before], known[after], near, step.back if step else None))
            near_scores = (scores[one] for one in (before, after) if one in scores)
            sources.append(min(near_scores, key=lambda one: one.quality))
        last = None if self._last is None else self._last.mask
        steps = [None if number in renewed else step for number, step in enumerate(steps)]
        masks, flickers = steadied(masks, last, steps, 0.0 if self.alone else BLEND)
        made = [
            MaskedFrame(frame, mask, score.quality, score.reasons, flicker)
            for frame, mask, score, flicker in zip(frames, masks, sources, flickers, strict=True)
        ]
        self._end_at(made[-1], smalls[-1])
        return made

    def _steps(self, smalls: list[Small]) -> list[Step | None]:
        """Return the motion from each frame's predecessor; None for the first frame of a video."""
        previous = [None if self._last is None else self._last.small, *smalls[:-1]]
        pairs = zip(smalls, previous, strict=True)
        return [None if old is None else Step(*both_ways(small, old)) for small, old in pairs]

    def _expected(self, moved: list[Motion | None]) -> list[Mask | None]:
        """Carry the last mask through the window; None: nothing is known of the object, or nothing is to be carried."""
        if self.alone:
            return [None] * len(moved)
        mask = None if self._last is None else shrunk(*self._last)
        expected: list[Mask | None] = []
        for one in moved:
            mask = None if mask is None or one is None or one.is_cut else np.rint(carry(mask, one)[0]).astype(np.uint8)
            if mask is not None and np.mean(mask >= OBJECT) < SMALLEST:
                mask = None
            expected.append(mask)
        return expected

    def _ask(self, frames: list[Frame], asked: list[int], expected: list[Mask | None]) -> tuple[dict[int, Segment], set[int]]:
        """Ask the model for masks, with the carried boxes; and again where it shows another object.

        The second time it gets the box of the named object, or none.

        Returns:
            The segments, and the frames whose object was found anew by its name.
        """
        boxes = {number: box_of(expected[number], frames[number]) for number in asked}
        if self._box is not None:
            boxes[0], self._box = self._box, None
        found = self._segments(frames, boxes)
        carried = {number: mask for number in asked if (mask := expected[number]) is not None}
        doubtful = [number for number, mask in carried.items() if likeness(found[number].mask, mask) < SAME]
        second = dict[int, Box | None].fromkeys(doubtful)
        for number in doubtful if self.named is not None else ():  # alone, nothing is doubtful
            box = self._look(frames[number])
            second[number] = None if isinstance(box, PromptError) else box
        renewed = set[int]()
        for number, other in self._segments(frames, second).items():
            first, alike = likeness(found[number].mask, carried[number]), likeness(other.mask, carried[number])
            if second[number] is not None and max(first, alike) < SAME:
                renewed.add(number)
            if number in renewed or alike > first:
                found[number], first = other, alike
            found[number] = _doubted(found[number], first)
        return found, renewed

    def _segments(self, frames: list[Frame], boxes: dict[int, Box | None]) -> dict[int, Segment]:
        numbers = list(boxes)
        segments = self.segmenter.segment([frames[number].pixels for number in numbers], [boxes[number] for number in numbers])
        found = {}
        for number, segment in zip(numbers, segments, strict=True):
            if isinstance(segment, ItemError):
                raise self._failed(frames[number], segment) from segment
            found[number] = segment
        return found

    def _failed(self, frame: Frame, error: ItemError) -> SegmentError:
        return SegmentError(f"at {float(frame.pts * self.unit):.2f} s: {error}")


def _doubted(segment: Segment, alike: float) -> Segment:
    """Lower the quality of a mask that is not like the carried one: another object may have been found."""
    if alike >= SAME:
        return segment
    reasons = (CHANGED, *segment.score.reasons)[:MAX_REASONS]
    return replace(segment, score=replace(segment.score, quality=segment.score.quality * alike / SAME, reasons=reasons))


def _still_doubted(one: MaskedFrame) -> MaskedFrame:
    """Lower the quality of a frame after one that showed another object, until the named object is found again."""
    if CHANGED in one.reasons:
        return one
    return one._replace(quality=one.quality * LOST_QUALITY, reasons=(CHANGED, *one.reasons)[:MAX_REASONS])
