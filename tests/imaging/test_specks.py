from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.specks import REMOVED, remove_specks

SIDE = 200
Map = np.ndarray


def discs(*places: tuple[float, float, float]) -> Map:
    """Return logits (SIDE, SIDE) of discs (x, y, radius), 1 per pixel of distance to the outline, positive inside."""
    down, across = np.mgrid[:SIDE, :SIDE]
    return np.asarray(np.max([radius - np.hypot(across - x, down - y) for x, y, radius in places], axis=0), np.float32)


LARGE = (80, 100, 50)


def test_a_small_part_is_removed_with_its_soft_edge_and_the_object_stays() -> None:
    before = discs(LARGE, (170, 100, 4))
    after = remove_specks(before, 0.01)
    assert (after[96:105, 166:175] <= REMOVED).all()
    assert (after[100, 175:177] <= REMOVED).all(), "the soft edge, too"
    object_ = discs(LARGE) > -20
    assert np.array_equal(after[object_], before[object_])


@pytest.mark.parametrize(("radius", "below", "removed"), [(6, 0.0, False), (6, 0.01, False), (6, 0.02, True), (40, 0.5, False)])
def test_the_limit_is_a_share_of_the_largest_part(radius: float, below: float, removed: bool) -> None:
    before = discs(LARGE, (160, 100, radius) if radius < 30 else (160, 20, radius))
    after = remove_specks(before, below)
    assert (after is not before) == removed


def test_one_part_or_none_is_left_as_it_is() -> None:
    for logits in (discs(LARGE), np.full((20, 20), -3, np.float32), np.full((20, 20), np.nan, np.float32)):
        assert remove_specks(logits, 0.5) is logits


def test_corners_connect() -> None:
    logits = np.full((20, 20), -3, np.float32)
    logits[2:12, 2:12] = 3
    logits[12, 12] = 3
    assert remove_specks(logits, 0.5) is logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays(value: float) -> None:
    logits = discs(LARGE, (170, 100, 4))
    logits[0, 0] = value
    after = remove_specks(logits, 0.01)
    assert after[0, 0] == value or np.isnan(value) == np.isnan(after[0, 0])


def test_random_maps_lose_small_parts_only() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = np.asarray(rng.normal(size=(24, 24)), np.float32)
        after = remove_specks(logits, 0.3)
        assert (after <= logits).all(), "nothing is added"
        assert (after > 0).any()
        assert remove_specks(after, 0.3) is after, "once is enough"
