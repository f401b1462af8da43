"""Estimate how much of a run is left, and how long that takes. Videos are measured in frames, since their lengths differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FramesLeft:
    """Counts the frames of videos that are still to be written.

    Args:
        videos: Videos to do.
    """

    def __init__(self, videos: int) -> None:
        self.videos = videos
        """Videos that are not finished."""
        self._begun: dict[str, tuple[int, int]] = {}
        self._ended = self._ended_frames = 0

    def add(self, part: Mapping[str, Any]) -> None:
        """Note how far a video is, by what the commit stage says about it. Parts about pictures say nothing."""
        if not part["video"]:
            return
        if part["ok"] + part["review"] + part["failed"]:
            self._begun.pop(part["video"], None)
            self.videos = max(0, self.videos - 1)
            self._ended += 1
            self._ended_frames += part["video_frames"]
        else:
            self._begun[part["video"]] = part["video_frames"], part["video_left"]

    @property
    def frames(self) -> int | None:
        """Frames that are left, estimated by headers; None if no length is known yet. A video not begun has the mean length."""
        if not self.videos:
            return 0
        known = [(frames, left) for frames, left in self._begun.values() if frames]
        count = self._ended + len(known)
        if not count:
            return None
        mean = (self._ended_frames + sum(frames for frames, _ in known)) / count
        return round(sum(left for _, left in known) + mean * max(0, self.videos - len(known)))


def seconds_left(items: int, items_per_s: float, videos: int, frames: int | None, frames_per_s: float) -> float | None:
    """Estimate the time that is left in a run; None if it is not known.

    Args:
        items: Items that are left.
        items_per_s: Their recent speed.
        videos: Those of them that are videos. They come last.
        frames: Frames of these videos that are left; None if it is not known.
        frames_per_s: Their recent speed.
    """
    left, speed = (frames, frames_per_s) if videos else (items, items_per_s)
    return None if left is None or not speed else left / speed
