"""Which part of a photo a training frame shows, and what of it is the object."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.storage.files import Files
from pipeline.training import samples
from pipeline.training.augment import degrade
from pipeline.training.crops import (
    Crop,
    Photo,
    bounding_box,
    composite,
    crop_photo,
    crop_to_box,
    crop_to_rough_box,
    keep_one_object,
    rough_shift,
    side_by_side,
)
from pipeline.training.material import Material
from pipeline.training.recipe import TrainRecipe
from pipeline.training.samples import ROUGH_BOXES, Item, Photos, Samples, resize_crop, sample_of


def photo_with(*boxes: tuple[int, int, int, int], height: int = 120, width: int = 160) -> Photo:
    """Make a photo of rectangles. Its red is the column, its green the row, its blue the ground truth."""
    alpha = np.zeros((height, width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        alpha[y0:y1, x0:x1] = 255
    rows, columns = np.indices((height, width))
    return Photo(np.dstack([columns, rows, alpha]).astype(np.uint8), alpha)


def test_the_bounding_box_holds_all_objects() -> None:
    assert bounding_box(photo_with((30, 20, 90, 100)).alpha) == (30, 20, 90, 100)
    assert bounding_box(photo_with((30, 20, 90, 100), (100, 30, 110, 110)).alpha) == (30, 20, 110, 110)
    assert bounding_box(photo_with((30, 20, 33, 100)).alpha) is None
    assert bounding_box(photo_with().alpha) is None


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_to_the_box_keeps_the_object_and_little_else(seed: int) -> None:
    photo, rng = photo_with((60, 40, 110, 80)), np.random.default_rng(seed)
    x0, y0, x1, y1 = crop_to_box(photo, rng).region
    assert photo.alpha[y0:y1, x0:x1].sum() > 0.9 * photo.alpha.sum()
    assert (x1 - x0) * (y1 - y0) <= 1.5**2 * 50 * 40
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 120


def test_rough_boxes_are_tight_loose_displaced_or_cut() -> None:
    rng, outward = np.random.default_rng(0), np.array([-1, -1, 1, 1])
    shifts = np.array([rough_shift(rng) for _ in range(500)])
    margins = shifts * outward
    assert margins.max() > 0.4
    assert margins.max() <= 0.6
    assert -0.2 <= margins.min() < -0.15
    assert (np.abs(shifts).max(1) < 0.05).mean() > 0.25  # tight
    assert ((margins > 0.02).all(1)).mean() > 0.1  # loose on every side
    displaced = (shifts[:, 0] == shifts[:, 2]) & (shifts[:, 1] == shifts[:, 3]) & (shifts != 0).all(1)
    assert 0.08 < displaced.mean() < 0.25
    assert np.abs(shifts[displaced]).max() <= 0.15


@pytest.mark.parametrize("seed", range(12))
def test_a_rough_box_changes_the_region_and_not_the_ground_truth(seed: int) -> None:
    photo = photo_with((60, 40, 110, 80), (120, 50, 150, 80))
    crop = crop_to_rough_box(photo, (60, 40, 110, 80), np.random.default_rng(seed))
    x0, y0, x1, y1 = crop.region
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 120
    assert crop.photo is photo
    assert photo.alpha[y0:y1, x0 : min(x1, 110)].sum() > 0.55 * 255 * 50 * 40


def test_half_of_the_boxes_on_photos_are_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, drawn = photo_with((60, 40, 110, 80)), []

    def spy(photo: Photo, box: tuple[int, int, int, int], rng: np.random.Generator) -> Crop:
        drawn.append(box)
        return crop_to_rough_box(photo, box, rng)

    monkeypatch.setattr(samples, "crop_to_rough_box", spy)
    monkeypatch.setattr(Samples, "_photo", lambda self, number: (0, photo))
    recipe = TrainRecipe.model_validate(
        {"name": "x", "variant": "mvanet-lite", "stages": [{"frame_px": 128, "batch": 1, "steps": 200}]}
    )
    made = Samples(Photos([Item("a", "a.jpg", "a.png")], Files()), None, recipe, 128)
    crops = [made._crop(number, "box", np.random.default_rng(number)) for number in range(400)]
    assert len(drawn) / 400 == pytest.approx(ROUGH_BOXES, abs=0.08) and set(drawn) == {(60, 40, 110, 80)}
    regions = np.array([crop.region for crop in crops])
    cut = (regions[:, 0] > 62) | (regions[:, 1] > 42) | (regions[:, 2] < 108) | (regions[:, 3] < 78)
    loose = (regions[:, 2:] - regions[:, :2] > 1.5 * np.array([50, 40])).any(1)
    assert 0.02 < cut.mean() < 0.3, "a part of the object is outside"
    assert 0.02 < loose.mean() < 0.3, "margins that crop_to_box never draws"
    monkeypatch.setattr(Samples, "_photo", lambda self, number: (0, photo_with()))
    assert made._crop(0, "box", np.random.default_rng(0)).photo.alpha.max() == 0, "a photo without an object has no box"


@pytest.mark.parametrize("seed", range(12))
def test_a_crop_of_the_photo_keeps_most_of_the_object(seed: int) -> None:
    photo = photo_with((0, 40, 50, 120))
    x0, y0, x1, y1 = crop_photo(photo, np.random.default_rng(seed)).region
    assert photo.alpha[y0:y1, x0:x1].sum() >= 0.6 * photo.alpha.sum()


def test_one_of_several_objects_is_kept_but_not_a_small_one() -> None:
    photo, rng = photo_with((10, 10, 60, 60), (90, 20, 140, 70), (150, 110, 154, 114)), np.random.default_rng(0)
    kept = {bounding_box(keep_one_object(photo, rng).alpha) for _ in range(20)}
    assert kept == {(10, 10, 60, 60), (90, 20, 140, 70)}
    single = photo_with((10, 10, 60, 60))
    assert keep_one_object(single, rng) is single


def test_a_photo_beside_it_adds_no_object() -> None:
    photo, other = photo_with((30, 20, 90, 100)), photo_with((5, 5, 60, 60), height=90, width=70)
    sizes = set()
    for seed in range(8):
        pair = side_by_side(photo, other, np.random.default_rng(seed))
        assert pair.alpha.shape == pair.image.shape[:2]
        assert pair.alpha.sum() == photo.alpha.sum()
        x0, y0, x1, y1 = bounding_box(pair.alpha) or (0, 0, 0, 0)
        assert (x1 - x0, y1 - y0) == (60, 80)
        assert (pair.image[y0:y1, x0:x1, 2] == 255).all()  # image and ground truth moved together
        sizes.add(pair.alpha.shape)
    assert sizes == {(120, 160 + round(70 * 120 / 90)), (120 + round(90 * 160 / 70), 160)}


def test_the_ground_truth_of_a_composite_is_the_object_in_the_box(material: Material) -> None:
    made = [composite(material, np.random.default_rng(seed), 96) for seed in range(16)]
    assert {needs_box for _, needs_box in made} == {False, True}
    for photo, _ in made:
        assert photo.image.shape == (96, 96, 3)
        assert photo.alpha.shape == (96, 96)
        assert photo.alpha.max() == 255
    again, _ = composite(material, np.random.default_rng(0), 96)
    assert np.array_equal(again.image, made[0][0].image)


def test_a_frame_and_its_ground_truth_show_the_same_place() -> None:
    crop = crop_to_box(photo_with((40, 30, 80, 90)), np.random.default_rng(3))
    frame, alpha = resize_crop(crop, 64, np.random.default_rng(0))
    assert frame.shape == (64, 64, 3)
    assert np.abs(frame[..., 2].astype(int) - alpha).mean() < 6  # the photo's blue is its ground truth


def test_only_pixels_near_edges_have_an_edge_weight() -> None:
    photo = photo_with((20, 20, 90, 100), height=128, width=128)
    edge = sample_of(photo.image, photo.alpha).edge.numpy()
    assert edge[60, 60] == edge[5, 120] == 0
    assert edge[60, 20] > 100


def test_every_degradation_changes_the_frame() -> None:
    frame = np.random.default_rng(0).integers(40, 200, (512, 512, 3), np.uint8)
    for seed in range(30):
        degraded = degrade(frame, np.random.default_rng(seed))
        assert degraded.shape == frame.shape and degraded.dtype == np.uint8
        assert not np.array_equal(degraded, frame)
