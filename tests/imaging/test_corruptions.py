"""Corruptions keep the object where its ground truth is."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.imaging.backdrop import extract_object
from pipeline.imaging.corruptions import KINDS, corrupt, tag

Scene = tuple[np.ndarray, np.ndarray]


def scene(seed: int = 0, *, middle: tuple[int, int] = (55, 80), radius: int = 25) -> Scene:
    """A blue ball on noisy green grass, (120, 160), and its mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160]
    inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    ball = np.array([30, 60, 200]) + rng.integers(0, 40, (120, 160, 1))
    grass = np.array([40, 140, 40]) + rng.integers(0, 60, (120, 160, 1))
    return np.where(inside[..., None], ball, grass).astype(np.uint8), (inside * 255).astype(np.uint8)


def core(mask: np.ndarray) -> np.ndarray:
    """The object without the pixels at its edge."""
    inside = mask > 0
    for axis in (0, 1):
        inside = inside & np.roll(inside, 2, axis) & np.roll(inside, -2, axis)
    return inside


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_depends_on_the_seed_only_and_changes_much(kind: str) -> None:
    photo, mask = scene()
    before = photo.copy(), mask.copy()
    one, again, other = (corrupt(photo, mask, kind, seed, scene(1)) for seed in (5, 5, 6))
    assert one.shape == photo.shape and one.dtype == np.uint8 and one.flags.c_contiguous
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert (np.abs(one.astype(int) - photo).max(2) > 8).mean() > 0.02
    assert np.array_equal(photo, before[0]) and np.array_equal(mask, before[1])


@pytest.mark.parametrize("kind", ["shadow", "reflection", "distractor"])
def test_additions_are_beside_the_object(kind: str) -> None:
    photo, mask = scene()
    for seed in range(10):
        corrupted = corrupt(photo, mask, kind, seed, scene(1))
        assert np.array_equal(corrupted[core(mask)], photo[core(mask)])
        assert (corrupted[mask == 0] != photo[mask == 0]).any()


def test_shadows_darken_the_floor_and_reflections_look_like_their_object() -> None:
    photo, mask = scene()
    for seed in range(10):
        below = corrupt(photo, mask, "reflection", seed)[82:95, 70:90].astype(int)
        assert (below[..., 2] - below[..., 1]).mean() > 10
        shaded = corrupt(photo, mask, "shadow", seed).astype(int)
        assert shaded[65:80].min() < 0.8 * shaded[:5].mean()
        assert (shaded.max(2) - shaded.min(2))[mask == 0].mean() < 30, "a backdrop has little colour"


def test_a_hand_drawn_mask_leaves_no_rim_of_the_old_background() -> None:
    photo, mask = scene()
    y, x = np.mgrid[:120, :160]
    rim = ((y - 55) ** 2 + (x - 80) ** 2 < 25**2) & ((y - 55) ** 2 + (x - 80) ** 2 >= 24**2)
    photo[rim] = (40, 170, 40)
    alpha, _ = extract_object(photo, mask)
    assert alpha[rim].mean() < 0.65 and (alpha[core(mask)] > 0.95).mean() > 0.97
    soft = (alpha * 255).astype(np.uint8)
    assert np.array_equal(extract_object(photo, soft)[0], (soft / np.float32(255)).astype(np.float32)), "soft masks stay"


FULL, EMPTY = np.full((120, 160), 255, np.uint8), np.zeros((120, 160), np.uint8)


@pytest.mark.parametrize(
    ("kind", "mask", "other", "message"),
    [
        ("reflection", None, None, "no room beside the object"),
        ("shadow", FULL, None, "no room beside the object"),
        ("distractor", FULL, scene(1), "no room beside the object"),
        ("blur", EMPTY, None, "the ground truth has no object"),
        ("distractor", None, None, "no other photo"),
        ("distractor", None, (scene()[0], EMPTY), "the other photo has no object"),
    ],
)
def test_impossible_corruptions_are_refused(kind: str, mask: np.ndarray | None, other: Scene | None, message: str) -> None:
    photo, own = scene(middle=(100, 80))
    with pytest.raises(ValueError, match=message):
        corrupt(photo, own if mask is None else mask, kind, 0, other)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_shapes_work_or_are_refused(kind: str, shape: tuple[int, int]) -> None:
    photo, mask = np.full((*shape, 3), 90, np.uint8), np.zeros(shape, np.uint8)
    mask[: max(1, shape[0] // 2), : max(1, shape[1] // 2)] = 255
    try:
        assert corrupt(photo, mask, kind, 1, scene()).shape == photo.shape
    except ValueError as error:
        assert "no room" in str(error)


def test_tags_are_those_of_the_evaluation() -> None:
    assert [tag(kind) for kind in KINDS[-3:]] == ["corruption:distractor", "shadow", "reflection"]
