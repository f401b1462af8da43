from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.holes import FILLED, fill_holes

SIDE = 200
Map = np.ndarray


def disc(x: float, y: float, radius: float) -> Map:
    """Return logits (SIDE, SIDE), 1 per pixel of distance to the outline, positive inside."""
    down, across = np.mgrid[:SIDE, :SIDE]
    return np.asarray(radius - np.hypot(across - x, down - y), np.float32)


def plate(*holes: tuple[float, float, float]) -> Map:
    """A disc of radius 80 with holes: x, y and radius of each."""
    logits = disc(100, 100, 80)
    for hole in holes:
        logits = np.minimum(logits, -disc(*hole))
    return logits


def test_small_holes_are_filled_to_opaque_and_large_ones_stay() -> None:
    """The areas are 1 % and 14 % of the plate's."""
    small, large = (70, 100, 8), (130, 100, 30)
    before = plate(small, large)
    after = fill_holes(before, 0.02)
    assert (after[disc(*small) > -2] >= FILLED).all(), "the soft edge, too"
    elsewhere = disc(*small) < -4
    assert np.array_equal(after[elsewhere], before[elsewhere])
    assert (fill_holes(before, 0.2)[disc(100, 100, 70) > 0] > 0).all()


@pytest.mark.parametrize(("radius", "below", "filled"), [(8, 0.0, False), (8, 0.009, False), (8, 0.011, True), (30, 1.0, True)])
def test_the_limit_is_a_share_of_the_object(radius: float, below: float, filled: bool) -> None:
    after = fill_holes(plate((100, 100, radius)), below)
    assert (after[100, 100] > 0) == filled


def test_a_ring_and_a_handle_stay_without_the_setting() -> None:
    ring = plate((100, 100, 60))
    assert fill_holes(ring, 0.0) is ring
    assert fill_holes(ring, 0.5) is ring, "the hole is larger than half of the ring"


def test_bays_gaps_and_the_surroundings_are_no_holes() -> None:
    notched = plate((180, 100, 40))
    slit = plate()
    slit[100:, 99:101] = -5
    framed = np.maximum(-disc(100, 100, 60), np.float32(-1))  # the object surrounds a hole, and reaches the border
    for logits in (notched, slit):
        assert fill_holes(logits, 1.0) is logits
    assert (fill_holes(framed, 1.0) > 0).all()


def test_diagonal_neighbours_do_not_open_a_hole() -> None:
    logits = np.full((20, 20), -3, np.float32)
    logits[5:15, 5:15] = 3
    logits[8, 8] = -3
    logits[5, 5] = -3
    assert (fill_holes(logits, 0.02) > 0).sum() == 99, "the corner belongs to the surroundings"


def test_the_outline_beside_a_hole_keeps_its_softness() -> None:
    """A hole whose wall is three pixels thick."""
    before = plate((100, 30, 7))
    after = fill_holes(before, 0.02)
    outside = before[:24] <= 0
    outside[20:, 90:110] = False
    assert np.array_equal(after[:24][outside], before[:24][outside])
    assert after[30, 100] >= FILLED


@pytest.mark.parametrize("value", [-5.0, 5.0, np.nan, np.inf, -np.inf])
def test_plain_maps_and_numbers_that_are_not_finite_stay(value: float) -> None:
    logits = np.full((16, 16), value, np.float32)
    assert np.array_equal(fill_holes(logits, 0.5), logits, equal_nan=True)


def test_holes_are_filled_in_an_object_that_fills_the_map() -> None:
    logits = np.full((50, 50), 4, np.float32)
    logits[20:23, 20:23] = -4
    assert (fill_holes(logits, 0.01) > 0).all()
    logits[0, 0] = -4
    after = fill_holes(logits, 0.01)
    assert after[0, 0] == -4 and (after > 0).sum() == 2499
