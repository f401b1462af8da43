"""Look for an object by its name: where a video begins, and where the object was lost or a new scene begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

from pipeline.errors import ItemError, PromptError
from pipeline.models.detectors.detector import Detection
from pipeline.segmenter import Segmenter
from pipeline.types import Box
from pipeline.video.reader import Facts, Frame

LOOK_EVERY_S = 0.5
"""Seconds between two looks for an object that is not there."""

LOOK_S = 5.0
"""Seconds at the start of a video in which the object must be found."""


class Named(NamedTuple):
    """An object that has a name.

    Attributes:
        names: Any of them will do.
        pts: Time of the frame in which it was found first. Nothing is cut out before.
        box: Around the object in that frame; None: what the model takes for the object there.
    """

    names: tuple[str, ...]
    pts: int
    box: Box | None


class Found(NamedTuple):
    """The first sight of an object: where it was, what the detector found (None: nothing, which is allowed), and remarks."""

    named: Named
    detection: Detection | None
    notes: tuple[str, ...] = ()


def look(segmenter: Segmenter, frame: Frame, names: tuple[str, ...]) -> Detection | PromptError | None:
    """Look for an object in a frame. Returns the error of an object that is not there.

    Raises:
        ItemError: The detector fails.
    """
    found = segmenter.finder.one_each([frame.pixels], [names])[0]
    if isinstance(found, ItemError) and not isinstance(found, PromptError):
        try:
            raise found
        finally:
            del found  # it leads to this frame, and so to the picture
    return found


def is_due(before: int, pts: int, unit: Fraction) -> bool:
    """Return whether half a second of the video begins between two times in units of ``unit`` seconds.

    This depends on nothing else, so that a continued run looks in the same frames.
    """
    return math.floor(pts * unit / Fraction(LOOK_EVERY_S)) > math.floor(before * unit / Fraction(LOOK_EVERY_S))


def find_first(
    first: Frame,
    again: Callable[[], AbstractContextManager[Iterable[Frame]]],
    unit: Fraction,
    names: tuple[str, ...],
    segmenter: Segmenter,
) -> Found:
    """Look for an object in the first frame, then every half second up to ``LOOK_S``.

    Args:
        first: The first frame.
        again: Opens the frames once more. None of them is kept.
        unit: Seconds per unit of their times.
        names: Of the object.
        segmenter: Has the detector.

    Raises:
        PromptError: It is in none of them.
        ItemError: A frame cannot be decoded, or the detector fails.
    """
    found = look(segmenter, first, names)
    if not isinstance(found, PromptError):
        return Found(Named(names, first.pts, found and found.box), found)
    with again() as frames:
        before = first.pts
        for frame in frames:
            at_s = float((frame.pts - first.pts) * unit)
            if at_s > LOOK_S:
                break
            if not is_due(before - first.pts, frame.pts - first.pts, unit):
                continue
            before = frame.pts
            other = look(segmenter, frame, names)
            if not isinstance(other, PromptError):
                note = f"the object is found at {at_s:.2f} s; nothing is cut out before"
                return Found(Named(names, frame.pts, other and other.box), other, (note,))
    raise PromptError(f"in the first {LOOK_S:g} s of the video: {found}")


def with_first(
    frames: Iterator[Frame],
    again: Callable[[], AbstractContextManager[Iterable[Frame]]],
    facts: Facts,
    names: tuple[str, ...],
    segmenter: Segmenter,
) -> tuple[Iterator[Frame], Found]:
    """Look for an object as ``find_first`` does. Returns all frames, and where it was found.

    Raises:
        ItemError: As ``find_first``.
    """
    first = next(frames)
    return chain([first], frames), find_first(first, again, facts.time_base, names, segmenter)
