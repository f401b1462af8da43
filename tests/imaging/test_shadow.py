"""A contact shadow is below the object, and nowhere else."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.rendition import Shadow
from pipeline.imaging.renditions.shadow import SIGMAS, cast_shadow, shadow_extent
from pipeline.types import Alpha, Size

FRAME = Size(400, 500)


def ball(radius: int) -> Alpha:
    y, x = np.mgrid[: 2 * radius, : 2 * radius] + 0.5
    return np.clip(radius + 0.5 - np.hypot(y - radius, x - radius), 0, 1).astype(np.float32)


def on_frame(shadow: Shadow, alpha: Alpha, top: int, left: int) -> Alpha:
    frame, cast = np.zeros(FRAME, np.float32), cast_shadow(shadow, alpha, top, left, FRAME)
    if cast is not None:
        frame[cast.area] = cast.opacity
    return frame


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
def test_the_shadow_stays_within_its_reach(shadow: Shadow, radius: int, top: int, left: int) -> None:
    opacity, height = on_frame(shadow, ball(radius), top, left), 2 * radius
    assert opacity.min() >= 0 and opacity.max() <= shadow.opacity + 1e-6
    room = shadow.depth / 2 * height + SIGMAS * max(0.5, shadow.softness * height) + 3
    middle = top + height + shadow.drop * height
    rows, columns = np.flatnonzero(opacity.any(axis=1)), np.flatnonzero(opacity.any(axis=0))
    if rows.size:
        assert rows[0] >= middle - room and rows[-1] <= middle + room
        aside = SIGMAS * max(0.5, shadow.softness * height) + 2
        assert columns[0] >= left - aside and columns[-1] <= left + height + aside


def test_it_is_darkest_where_the_object_touches_the_ground() -> None:
    opacity = on_frame(Shadow(), ball(100), 100, 150)
    row = opacity[300]
    assert row.argmax() == pytest.approx(250, abs=3)
    assert row[250] > 0.25
    assert row[155] < 0.2 * row[250], "at its sides a ball is far from the ground"
    assert not opacity[: 300 - math.ceil(0.04 * 200 + 3 * 0.02 * 200) - 1].any()


def test_two_feet_have_two_shadows() -> None:
    chair = np.zeros((100, 100), np.float32)
    chair[:60] = 1
    chair[:, :10] = chair[:, 90:] = 1
    row = on_frame(Shadow(), chair, 100, 100)[200]
    assert min(row[105], row[194]) > 4 * row[150]


def test_the_extent_covers_the_shadow() -> None:
    shadow, radius = Shadow(softness=0.05, depth=0.2, drop=0.1), 60
    extent = shadow_extent(shadow)
    opacity = on_frame(shadow, ball(radius), 100, 150)
    rows, columns = np.flatnonzero(opacity.max(axis=1) > 0.004), np.flatnonzero(opacity.max(axis=0) > 0.004)
    assert rows[-1] <= 100 + 120 + extent.below * 120
    assert 150 - columns[0] <= extent.aside * 120 and columns[-1] - 270 <= extent.aside * 120


def test_invisible_objects_and_shadows_outside_the_frame_are_none() -> None:
    assert cast_shadow(Shadow(), np.full((9, 9), 0.01, np.float32), 0, 0, FRAME) is None
    assert cast_shadow(Shadow(), np.ones((9, 9), np.float32), 390, 0, Size(380, 500)) is None
    one = cast_shadow(Shadow(), np.ones((1, 1), np.float32), 10, 10, FRAME)
    assert one is not None and one.opacity.max() <= 1
