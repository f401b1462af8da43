"""Sum up a video while its frames pass: their number, times, quality and flicker, and the worst moments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline.video.reader import Facts
from pipeline.video.steady import MAX_REASONS, MaskedFrame

QUANTILE = 0.05
"""The quality of a video is the one that this share of its frames does not reach."""

WORST = 5
"""Moments of lowest quality that are kept."""


class Moment(NamedTuple):
    """A second of a video, by its frame of lowest quality."""

    quality: float
    at_s: float


class SegmentFacts(NamedTuple):
    """A segment of a video: where it is, and its quality and flicker as those of a video."""

    number: int
    start_s: float
    frames: int
    quality: float
    worst_at_s: float
    flicker: float | None
    reasons: list[str]


class Tally:
    """Counts frames as they pass.

    Args:
        facts: The source's.
        per_segment: Frames per segment; 0 for no segments.
    """

    def __init__(self, facts: Facts, per_segment: int = 0) -> None:
        self.facts, self._per_segment = facts, per_segment
        self._qualities: list[float] = []
        self._reasons: list[tuple[str, ...]] = []
        self._flicker, self._carried = 0.0, 0
        self._first = self._last = self._duration = 0
        self._moments: dict[int, Moment] = {}
        self._segments: list[SegmentFacts] = []
        self._segment: Tally | None = None

    def passing(self, frames: Iterable[MaskedFrame]) -> Iterator[MaskedFrame]:
        """Yield the frames, and count each when the next one is asked for."""
        for one in frames:
            yield one
            self.add(one)

    def add(self, one: MaskedFrame) -> None:
        """Count a frame."""
        frame = one.frame
        if not self._qualities:
            self._first = frame.pts
        if self._per_segment:
            self._add_to_segment(one)
        self._last, self._duration = frame.pts, frame.duration
        self._qualities.append(one.quality)
        self._reasons.append(one.reasons)
        if one.flicker is not None:
            self._flicker += one.flicker
            self._carried += 1
        at_s = self._time(frame.pts)
        moment = Moment(one.quality, at_s)
        self._moments[math.floor(at_s)] = min(moment, self._moments.get(math.floor(at_s), moment))

    def _add_to_segment(self, one: MaskedFrame) -> None:
        if self._segment is None or self._segment.frames == self._per_segment:
            self._end_segment()
            self._segment = Tally(self.facts)
        self._segment.add(one)

    def _end_segment(self) -> None:
        if (ended := self._segment) is not None:
            start_s = self._time(ended._first)
            worst_at_s = start_s + ended.worst[0].at_s
            facts = ended.frames, ended.quality, worst_at_s, ended.flicker, list(ended.reasons)
            self._segments.append(SegmentFacts(len(self._segments), start_s, *facts))
            self._segment = None

    def _time(self, pts: int) -> float:
        return float((pts - self._first) * self.facts.time_base)

    @property
    def segments(self) -> list[SegmentFacts]:
        """The segments; none if there is only one. To be asked for when all frames have passed."""
        self._end_segment()
        return self._segments if len(self._segments) > 1 else []

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self._qualities)

    @property
    def seconds(self) -> float:
        """Duration: from the first frame to the end of the last."""
        unit = self.facts.time_base
        return self._time(self._last) + (float(self._duration * unit) if self._duration else float(1 / self.facts.rate))

    @property
    def quality(self) -> float:
        """The 5 % quantile of the frames' quality."""
        return float(np.quantile(self._qualities, QUANTILE))

    @property
    def reasons(self) -> tuple[str, ...]:
        """The signals that lowered the quality of the worst frames most often, at most ``MAX_REASONS``."""
        limit = self.quality
        pairs = zip(self._qualities, self._reasons, strict=True)
        counts = Counter(reason for quality, reasons in pairs if quality <= limit for reason in reasons)
        return tuple(reason for reason, _ in counts.most_common(MAX_REASONS))

    @property
    def flicker(self) -> float | None:
        """Mean flicker of the frames; None if every frame is a scene of its own."""
        return self._flicker / self._carried if self._carried else None

    @property
    def worst(self) -> list[Moment]:
        """The worst moments, worst first."""
        return sorted(self._moments.values())[:WORST]
