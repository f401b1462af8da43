"""A contact shadow lies under the object, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.rendition import Shadow
from pipeline.imaging.renditions.shadow import SIGMAS, cast, reach
from pipeline.types import Alpha, Size

FRAME = Size(400, 500)


def ball(radius: int) -> Alpha:
    y, x = np.mgrid[: 2 * radius, : 2 * radius] + 0.5
    return np.clip(radius + 0.5 - np.hypot(y - radius, x - radius), 0, 1).astype(np.float32)


def on_frame(shadow: Shadow, alpha: Alpha, top: int, left: int) -> Alpha:
    whole, made = np.zeros(FRAME, np.float32), cast(shadow, alpha, top, left, FRAME)
    if made is not None:
        rows, columns = made.opacity.shape
        whole[made.top : made.top + rows, made.left : made.left + columns] = made.opacity
    return whole


@given(
    st.builds(
        Shadow,
        opacity=st.floats(0.05, 1),
        softness=st.floats(0.001, 0.2),
        depth=st.floats(0.01, 0.6),
        drop=st.floats(-0.2, 0.3),
    ),
    st.integers(5, 90),
    st.integers(-20, 300),
    st.integers(-20, 400),
)
def test_no_row_above_its_reach_is_touched(shadow: Shadow, radius: int, top: int, left: int) -> None:
    made, height = on_frame(shadow, ball(radius), top, left), 2 * radius
    assert made.min() >= 0 and made.max() <= shadow.opacity + 1e-6
    room = shadow.depth / 2 * height + SIGMAS * max(0.5, shadow.softness * height) + 3
    middle = top + height + shadow.drop * height
    rows, columns = np.flatnonzero(made.any(axis=1)), np.flatnonzero(made.any(axis=0))
    if rows.size:
        assert rows[0] >= middle - room and rows[-1] <= middle + room
        aside = SIGMAS * max(0.5, shadow.softness * height) + 2
        assert columns[0] >= left - aside and columns[-1] <= left + height + aside


def test_it_is_darkest_where_the_object_stands() -> None:
    made = on_frame(Shadow(), ball(100), 100, 150)
    row = made[300]
    assert row.argmax() == pytest.approx(250, abs=3)
    assert row[250] > 0.25
    assert row[155] < 0.2 * row[250], "at its sides a ball is far from the ground"
    assert not made[: 300 - math.ceil(0.04 * 200 + 3 * 0.02 * 200) - 1].any()


def test_two_feet_have_two_shadows() -> None:
    chair = np.zeros((100, 100), np.float32)
    chair[:60] = 1
    chair[:, :10] = chair[:, 90:] = 1
    row = on_frame(Shadow(), chair, 100, 100)[200]
    assert min(row[105], row[194]) > 4 * row[150]


def test_the_room_that_is_asked_for_is_enough() -> None:
    shadow, radius = Shadow(softness=0.05, depth=0.2, drop=0.1), 60
    wanted = reach(shadow)
    made = on_frame(shadow, ball(radius), 100, 150)
    rows, columns = np.flatnonzero(made.max(axis=1) > 0.004), np.flatnonzero(made.max(axis=0) > 0.004)
    assert rows[-1] <= 100 + 120 + wanted.below * 120
    assert 150 - columns[0] <= wanted.aside * 120 and columns[-1] - 270 <= wanted.aside * 120


def test_what_cannot_be_seen_casts_none() -> None:
    assert cast(Shadow(), np.full((9, 9), 0.01, np.float32), 0, 0, FRAME) is None
    assert cast(Shadow(), np.ones((9, 9), np.float32), 390, 0, Size(380, 500)) is None
    one = cast(Shadow(), np.ones((1, 1), np.float32), 10, 10, FRAME)
    assert one is not None and one.opacity.max() <= 1
