"""The time that is left in a run with videos is that of their frames."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.output.time_left import FramesLeft, seconds_left


def said(video: str, frames: int, left: int, **counts: int) -> dict[str, Any]:
    """What the commit stage says about a video."""
    return {"ok": 0, "review": 0, "failed": 0, "video": video, "video_frames": frames, "video_left": left} | counts


def test_frames_of_begun_videos_and_of_those_that_wait_are_left() -> None:
    left = FramesLeft(3)
    assert left.frames is None, "no length is known"
    left.add(said("", 0, 0, ok=5))
    left.add(said("a", 0, 0))
    assert (left.videos, left.frames) == (3, None), "pictures, and a video whose header says nothing"
    left.add(said("a", 10_000, 9_000))
    assert left.frames == 29_000, "two that wait have the mean length"
    left.add(said("b", 4_000, 1_000))
    assert left.frames == 9_000 + 1_000 + 7_000
    left.add(said("a", 9_980, 0, ok=1))
    assert (left.videos, left.frames) == (2, 1_000 + round((9_980 + 4_000) / 2))
    left.add(said("b", 4_000, 4_000))
    assert left.frames == 4_000 + 6_990, "a repeated attempt begins anew"
    left.add(said("b", 4_000, 0, review=1))
    left.add(said("c", 0, 0, failed=1))
    assert (left.videos, left.frames) == (0, 0)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ({"items": 10, "items_per_s": 2.0}, 5.0),
        ({"items": 10, "items_per_s": 0.0}, None),
        ({"items": 3, "items_per_s": 0.001, "videos": 3, "frames": 30_000, "frames_per_s": 10.0}, 3_000.0),
        ({"items": 3, "items_per_s": 0.001, "videos": 3, "frames": 30_000}, None),
        ({"items": 900, "items_per_s": 5.0, "videos": 3}, None),  # the pictures come first
    ],
)
def test_the_time_is_that_of_frames_if_videos_are_left(left: dict[str, Any], expected: float | None) -> None:
    assert seconds_left(**{"videos": 0, "frames": None, "frames_per_s": 0.0} | left) == expected
