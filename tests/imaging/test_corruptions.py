"""Harder copies: the object is where its true mask says, whatever happens around it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.corruptions import KINDS, make_copy, tag
from pipeline.imaging.studio import cut


def scene(seed: int = 0, *, middle: tuple[int, int] = (55, 80), radius: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """A blue ball on noisy green grass, (120, 160)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160]
    inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    ball = np.array([30, 60, 200]) + rng.integers(0, 40, (120, 160, 1))
    grass = np.array([40, 140, 40]) + rng.integers(0, 60, (120, 160, 1))
    return np.where(inside[..., None], ball, grass).astype(np.uint8), (inside * 255).astype(np.uint8)


def core(truth: np.ndarray) -> np.ndarray:
    """The object without the pixels at its edge."""
    inside = truth > 0
    for axis in (0, 1):
        inside = inside & np.roll(inside, 2, axis) & np.roll(inside, -2, axis)
    return inside


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_follows_from_its_seed_and_changes_much(kind: str) -> None:
    photo, truth = scene()
    before = photo.copy(), truth.copy()
    one, again, other = (make_copy(photo, truth, kind, seed, scene(1)) for seed in (5, 5, 6))
    assert one.shape == photo.shape and one.dtype == np.uint8 and one.flags.c_contiguous
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert (np.abs(one.astype(int) - photo).max(2) > 8).mean() > 0.02
    assert np.array_equal(photo, before[0]) and np.array_equal(truth, before[1])


@pytest.mark.parametrize("kind", ["shadow", "reflection", "distractor"])
def test_what_is_added_lies_beside_the_object(kind: str) -> None:
    photo, truth = scene()
    for seed in range(10):
        made = make_copy(photo, truth, kind, seed, scene(1))
        assert np.array_equal(made[core(truth)], photo[core(truth)])
        assert (made[truth == 0] != photo[truth == 0]).any()


def test_shadows_darken_the_floor_and_reflections_look_like_their_object() -> None:
    photo, truth = scene()
    below = np.s_[82:95, 70:90]
    blue = [make_copy(photo, truth, "reflection", seed)[below].astype(int) for seed in range(10)]
    assert all((part[..., 2] - part[..., 1]).mean() > 10 for part in blue)
    for seed in range(10):
        shaded = make_copy(photo, truth, "shadow", seed)
        corners, beside = shaded[:5, :, :].astype(int).mean(), shaded[65:80].astype(int).min()
        assert beside < 0.8 * corners
        assert (shaded.astype(int).max(2) - shaded.astype(int).min(2))[truth == 0].mean() < 30, "a sweep has little colour"


def test_a_hand_drawn_mask_leaves_no_rim_of_the_old_ground() -> None:
    photo, truth = scene()
    y, x = np.mgrid[:120, :160]
    rim = ((y - 55) ** 2 + (x - 80) ** 2 < 25**2) & ((y - 55) ** 2 + (x - 80) ** 2 >= 24**2)
    photo[rim] = (40, 170, 40)
    alpha, _ = cut(photo, truth)
    assert alpha[rim].mean() < 0.65 and (alpha[core(truth)] > 0.95).mean() > 0.97
    soft = (alpha * 255).astype(np.uint8)
    assert np.array_equal(cut(photo, soft)[0], (soft / np.float32(255)).astype(np.float32)), "real alpha stays as it is"


def test_where_there_is_no_room_there_is_no_copy() -> None:
    photo, truth = scene(middle=(100, 80))
    for kind, whole in (("reflection", truth), ("shadow", np.full_like(truth, 255)), ("distractor", np.full_like(truth, 255))):
        with pytest.raises(ValueError, match="no room beside the object"):
            make_copy(photo, whole, kind, 0, scene(1))
    with pytest.raises(ValueError, match="no object"):
        make_copy(photo, np.zeros_like(truth), "blur", 0)
    with pytest.raises(ValueError, match="no other photo"):
        make_copy(photo, truth, "distractor", 0)
    with pytest.raises(ValueError, match="the other photo has no object"):
        make_copy(photo, truth, "distractor", 0, (photo, np.zeros_like(truth)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 2)])
def test_odd_sizes_do_or_are_refused(shape: tuple[int, int]) -> None:
    photo, truth = np.full((*shape, 3), 90, np.uint8), np.zeros(shape, np.uint8)
    truth[: max(1, shape[0] // 2), : max(1, shape[1] // 2)] = 255
    for kind in KINDS:
        try:
            assert make_copy(photo, truth, kind, 1, scene()).shape == photo.shape
        except ValueError as error:
            assert "no room" in str(error)


def test_tags_are_those_of_the_evaluation() -> None:
    assert [tag(kind) for kind in KINDS[-3:]] == ["harder:distractor", "shadow", "reflection"]
