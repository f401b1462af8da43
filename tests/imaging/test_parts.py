"""Boxes around the connected parts of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.parts import part_at, parts_of, without_others
from pipeline.types import Box


@pytest.fixture
def mask() -> np.ndarray:
    """A large and a small part, haze between them, and a speck."""
    made = np.zeros((50, 80), np.uint8)
    made[5:25, 10:40] = 255
    made[30:40, 60:80] = 128
    made[25:30, 40:60] = 127
    made[45, 5] = 255
    return made


def test_parts_are_sorted_by_area_and_specks_are_none(mask: np.ndarray) -> None:
    large, small = parts_of(mask, 10)
    assert large.box == Box(10, 5, 40, 25) and small.box == Box(60, 30, 80, 40)
    assert (large.share, small.share) == (pytest.approx(0.75), pytest.approx(0.25))
    assert parts_of(mask, 1) == [large]


def test_a_mask_without_an_object_has_no_parts(mask: np.ndarray) -> None:
    assert parts_of(np.zeros_like(mask), 10) == [] == parts_of(np.full_like(mask, 127), 10)


def test_objects_that_touch_at_a_corner_are_one_part(mask: np.ndarray) -> None:
    mask[25:31, 40:61] = 255
    (one,) = parts_of(mask, 10)
    assert one.box == Box(10, 5, 80, 40) and one.share == 1


@pytest.mark.parametrize(
    ("x", "y", "box"),
    [
        (10, 5, (10, 5, 40, 25)),
        (39.9, 24.9, (10, 5, 40, 25)),
        (70, 35, (60, 30, 80, 40)),
        (5.5, 45, (5, 45, 6, 46)),
        (50, 27, None),
        (-1, 5, None),
        (80, 35, None),
        (70, 50, None),
        (float("nan"), 5, None),
    ],
)
def test_the_part_at_a_point(x: float, y: float, box: tuple[int, ...] | None, mask: np.ndarray) -> None:
    assert part_at(mask, x, y) == (None if box is None else Box(*box))


def test_other_parts_and_their_edges_are_cleared() -> None:
    whole = np.zeros((200, 200), np.uint8)
    whole[20:180, 20:50] = whole[150:180, 20:180] = 255  # an L, and a square inside its box
    whole[40:90, 110:160] = 255
    mask = whole.copy()
    mask[39, 110:160] = 90  # the square's soft edge
    mask[100:120, 50:60] = 255  # what the second look adds to the L
    cleared = without_others(mask, whole, 30, 100)
    assert not cleared[38:92, 108:162].any()
    mask[39:90, 110:160] = 0
    np.testing.assert_array_equal(cleared, mask)
    np.testing.assert_array_equal(without_others(mask, mask, 30, 100), mask)
