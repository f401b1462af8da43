"""Training frames show what the ground truth is about, and look as in a job."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.presets import load_preset
from pipeline.imaging.frame import make_frame, place
from pipeline.storage.files import Files
from pipeline.training import samples
from pipeline.training.crops import Crop, Photo
from pipeline.training.photos import read_photos
from pipeline.training.recipe import TrainRecipe
from pipeline.training.samples import Photos, Samples, ValidationSamples, resize_crop

RECIPE = {"name": "tiny", "variant": "mvanet-lite", "stages": [{"frame_px": 128, "batch": 1, "steps": 100}]}


@pytest.fixture(scope="module")
def photos(disc_manifest: Callable[[int], Path]) -> Photos:
    """The photos to train on of four with a small disc each."""
    return read_photos(str(disc_manifest(4)), "truth_uri", Files(), 4)[0]


def test_items_with_a_box_are_shown_in_crops_to_it(photos: Photos) -> None:
    recipe = TrainRecipe.model_validate(RECIPE | {"views": {"whole": 1, "box": 0, "pair": 0, "composite": 0}})
    boxed = dataclasses.replace(photos, items=[dataclasses.replace(item, boxed=True) for item in photos.items])
    shares = [
        float(np.median([(some[number].alpha > 127).float().mean() for number in range(40)]))
        for some in (Samples(photos, None, recipe, 128), Samples(boxed, None, recipe, 128))
    ]
    assert shares[1] > 1.5 * shares[0]
    complete, cropped = (float((ValidationSamples(some, 128)[0].alpha > 127).float().mean()) for some in (photos, boxed))
    assert cropped > 1.5 * complete


def test_a_photo_is_never_beside_itself(photos: Photos) -> None:
    views = {"whole": 0, "box": 0, "pair": 1, "composite": 0}
    recipe = TrainRecipe.model_validate(RECIPE | {"views": views, "colour": 0, "damage": 0})
    one, other, *_ = photos.items
    for items, joined in (
        *(([one], False), ([one, dataclasses.replace(one, item_id="another object of it")], False)),
        ([one, other], True),
    ):
        made = Samples(dataclasses.replace(photos, items=items), None, recipe, 128)
        sizes = {made._crop(number, "pair", np.random.default_rng(number)).photo.alpha.shape for number in range(20)}
        alone = {photos.read(place).alpha.shape for place in range(len(photos.items))}
        assert (sizes <= alone) != joined, "a joined photo is larger than each of both"
        for number in range(0 if joined else 20):
            frame, alpha, _ = made[number]
            bright = frame.float().mean(-1) > 130  # discs are brighter than their ground
            assert (alpha[bright] > 127).float().mean() > 0.9


def test_frames_are_those_of_a_job() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (900, 1200, 3), np.uint8)
    recipe = load_preset("mvanet-lite", {"frame_px": 256}).recipe
    expected = make_frame(image, place((900, 1200), None, recipe), recipe)
    frame, _ = resize_crop(Crop(Photo(image, image[..., 0]), (0, 0, 1200, 900)), 256)
    np.testing.assert_array_equal(frame, expected)


def test_of_many_photos_held_out_some_are_validated(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "VALIDATION_PHOTOS", 2)
    chosen = ValidationSamples(photos, 128)
    assert len(chosen) == 2 < len(photos.items)
    again = ValidationSamples(dataclasses.replace(photos, items=photos.items[::-1]), 128)
    assert again.photos.items == chosen.photos.items


def test_a_photo_that_cannot_be_read_is_named_once(
    disc_manifest: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, said = disc_manifest(4), list[str]()
    monkeypatch.setattr(samples.log, "warning", said.append)
    with manifest.open() as file:
        rows = list(csv.DictReader(file))
    photos, _ = read_photos(str(manifest), "truth_uri", Files(), 4)
    (manifest.parent / rows[0]["image_uri"]).unlink()
    (manifest.parent / rows[1]["image_uri"]).unlink()
    made = Samples(photos, None, TrainRecipe.model_validate(RECIPE), 128)
    for number in range(12):
        made[number]
    lost = {row["item_id"] for row in rows[:2]} & {item.item_id for item in photos.items}
    assert lost and sorted(text.split(": ")[1] for text in said) == sorted(lost)
