"""Which part of a photo a frame shows, and what of it is the object."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.training.augment import damage
from pipeline.training.crops import Photo, box_of, composite, look_at_box, look_whole, one_part, side_by_side
from pipeline.training.material import Material
from pipeline.training.samples import sample_of, show


def photo_with(*boxes: tuple[int, int, int, int], height: int = 120, width: int = 160) -> Photo:
    """Objects that are rectangles, in a photo whose red channel is the column and whose green one is the row."""
    alpha = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        alpha[y0:y1, x0:x1] = 255
    rows, columns = np.indices((height, width))
    return Photo(np.dstack([columns, rows, alpha]).astype(np.uint8), alpha)


def test_a_box_is_around_what_is_object() -> None:
    assert box_of(photo_with((30, 20, 90, 100)).alpha) == (30, 20, 90, 100)
    assert box_of(photo_with((30, 20, 90, 100), (100, 30, 110, 110)).alpha) == (30, 20, 110, 110)
    assert box_of(photo_with((30, 20, 33, 100)).alpha) is None
    assert box_of(photo_with().alpha) is None


@pytest.mark.parametrize("seed", range(12))
def test_a_look_at_a_box_keeps_nearly_all_of_the_object_and_leaves_most_else_out(seed: int) -> None:
    photo, rng = photo_with((60, 40, 110, 80)), np.random.default_rng(seed)
    x0, y0, x1, y1 = look_at_box(photo, rng).region
    assert photo.alpha[y0:y1, x0:x1].sum() > 0.9 * photo.alpha.sum()
    assert (x1 - x0) * (y1 - y0) <= 1.5**2 * 50 * 40
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 120


@pytest.mark.parametrize("seed", range(12))
def test_a_look_at_the_whole_has_most_of_the_object(seed: int) -> None:
    photo = photo_with((0, 40, 50, 120))
    x0, y0, x1, y1 = look_whole(photo, np.random.default_rng(seed)).region
    assert photo.alpha[y0:y1, x0:x1].sum() >= 0.6 * photo.alpha.sum()


def test_one_part_is_one_object_of_several_and_never_a_crumb() -> None:
    photo, rng = photo_with((10, 10, 60, 60), (90, 20, 140, 70), (150, 110, 154, 114)), np.random.default_rng(0)
    found = {box_of(one_part(photo, rng).alpha) for _ in range(20)}
    assert found == {(10, 10, 60, 60), (90, 20, 140, 70)}
    alone = photo_with((10, 10, 60, 60))
    assert one_part(alone, rng) is alone


def test_beside_another_photo_there_is_nothing_more_to_be_found() -> None:
    photo, other = photo_with((30, 20, 90, 100)), photo_with((5, 5, 60, 60), height=90, width=70)
    sizes = set()
    for seed in range(8):
        both = side_by_side(photo, other, np.random.default_rng(seed))
        assert both.alpha.shape == both.image.shape[:2]
        assert both.alpha.sum() == photo.alpha.sum()
        x0, y0, x1, y1 = box_of(both.alpha) or (0, 0, 0, 0)
        assert (x1 - x0, y1 - y0) == (60, 80)
        assert (both.image[y0:y1, x0:x1, 2] == 255).all()  # where the photo went, its truth went too
        sizes.add(both.alpha.shape)
    assert sizes == {(120, 160 + round(70 * 120 / 90)), (120 + round(90 * 160 / 70), 160)}


def test_composites_have_the_truth_of_the_object_that_the_box_is_around(material: Material) -> None:
    made = [composite(material, np.random.default_rng(seed), 96) for seed in range(16)]
    assert {needs_box for _, needs_box in made} == {False, True}
    for photo, _ in made:
        assert photo.image.shape == (96, 96, 3)
        assert photo.alpha.shape == (96, 96)
    assert all(photo.alpha.max() == 255 for photo, _ in made)
    again, _ = composite(material, np.random.default_rng(0), 96)
    assert np.array_equal(again.image, made[0][0].image)


def test_a_frame_and_its_truth_show_the_same_place() -> None:
    photo = photo_with((40, 30, 80, 90))
    look = look_at_box(photo, np.random.default_rng(3))
    frame, alpha = show(look, 64, np.random.default_rng(0))
    assert frame.shape == (64, 64, 3)
    assert np.abs(frame[..., 2].astype(int) - alpha).mean() < 6  # the photo's blue is its truth


def test_edges_weigh_more_than_planes() -> None:
    photo = photo_with((20, 20, 90, 100), height=128, width=128)
    edge = sample_of(photo.image, photo.alpha).edge.numpy()
    assert edge[60, 60] == edge[5, 120] == 0
    assert edge[60, 20] > 100


def test_light_and_damage_change_the_frame_alone() -> None:
    frame = np.random.default_rng(0).integers(40, 200, (512, 512, 3), np.uint8)
    kinds = [damage(frame, np.random.default_rng(seed)) for seed in range(30)]
    assert all(one.shape == frame.shape and one.dtype == np.uint8 for one in kinds)
    assert all(not np.array_equal(one, frame) for one in kinds)
