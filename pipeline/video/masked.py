"""Find the masks of a video's frames: read those of finished segments, and ask the model for the others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

from pipeline.concurrency import ahead
from pipeline.errors import DecodeError
from pipeline.segmenter import Segmenter
from pipeline.types import Box
from pipeline.video.named import Named
from pipeline.video.reader import Facts, Frame
from pipeline.video.segments import SegmentStore, StoredFrame, Window, frames_per_segment, stored_frame, windows
from pipeline.video.steady import MaskedFrame, Steady

BATCH_BYTES = 64 * 2**20
"""Frames that go through the model together, at most. Up to six such batches are in memory."""


def segmented(
    frames: Iterable[Frame],
    facts: Facts,
    segmenter: Segmenter,
    box: Box | None,
    store: SegmentStore | None = None,
    kept: Callable[[], None] = lambda: None,
    first: int = 0,
    before: Sequence[Frame] = (),
    named: Named | None = None,
) -> Generator[list[MaskedFrame]]:
    """Yield the frames with their masks, batch by batch. The next batch is decoded while the model works.

    Args:
        frames: The video's.
        facts: Of the video.
        segmenter: The model.
        box: Around the object in the first frame.
        store: Finished segments, and where further ones are kept; None to keep none.
        kept: Called when a segment was kept.
        first: Number of the first segment.
        before: Some frames before the first one, from which the object is carried on.
        named: The object, if it has a name, without ``box``.

    Raises:
        ItemError: A frame cannot be decoded, the box is outside, the model fails on a frame, or a segment cannot be kept. The
            message names its time.
    """
    height, width = facts.size
    every, alone = segmenter.recipe.every, not segmenter.recipe.steady
    batch = max(1, min(segmenter.batch, BATCH_BYTES // (3 * height * width)))
    if box is not None:
        box.check_inside(facts.size)
    steady = Steady(segmenter, facts.time_base, box, every, alone=alone, named=named)
    for start in range(0, len(before), batch):
        steady(list(before[start : start + batch]))
    finder = _Finder(steady, store, kept)
    divided = windows(frames, frames_per_segment(facts.size), batch * every, first)
    with closing(ahead(divided, wait=True)) as some:
        for window in some:
            yield finder(window)


class _Finder:
    """Finds the masks of windows in order. A segment is kept when it is complete."""

    def __init__(self, steady: Steady, store: SegmentStore | None, kept: Callable[[], None]) -> None:
        self._steady, self._store, self._kept = steady, store, kept
        self._segment = -1
        self._found: list[StoredFrame] = []
        self._new: list[StoredFrame] = []
        self._is_new = self._is_first = False

    def __call__(self, window: Window) -> list[MaskedFrame]:
        """Return the frames of a window with their masks.

        Raises:
            ItemError: See ``segmented``.
        """
        if self._store is None:
            return self._steady(window.frames)
        if window.segment != self._segment:
            self._segment, self._new, self._is_new = window.segment, [], False
            self._found = self._store.read(window.segment) or []
            self._is_first = True
        stored = self._found[: len(window.frames)]
        masked = self._known(window.frames)
        if masked is None:
            self._found, self._is_new = [], True
            masked = self._steady(window.frames)
            stored = [stored_frame(one) for one in masked]
        self._new += stored
        if window.ends and self._is_new:
            self._store.write(window.segment, self._new)
            self._kept()
        return masked

    def _known(self, frames: list[Frame]) -> list[MaskedFrame] | None:
        """Return the frames with the masks that were found; None if these are damaged, or of other frames."""
        stored, self._found = self._found[: len(frames)], self._found[len(frames) :]
        if [one.pts for one in stored] != [frame.pts for frame in frames]:
            return None
        try:
            masked = [one.masked(frame) for one, frame in zip(stored, frames, strict=True)]
        except DecodeError:
            return None
        if self._is_first and not self._steady.agrees(masked[0].frame, masked[0].mask):
            return None  # whoever found this segment, began it with another object
        self._is_first = False
        self._steady.go_on_from(masked[-1])
        return masked
