"""Synthetic products: exact alpha, the same pixels for a seed, and every kind and arrangement."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.config.job import Storage
from pipeline.storage.files import Files
from pipeline.training.material import Material
from pipeline.training.products.brands import Pictures
from pipeline.training.products.catalogue import KINDS, PACKAGES, draw_kind, draw_product
from pipeline.training.products.hands import Hand
from pipeline.training.products.layers import Canvas, Drawing, Layer
from pipeline.training.products.light import Light, Pose
from pipeline.training.products.scene import ARRANGEMENTS, draw_size, make_product_scene
from pipeline.training.products.sheet import CELL_PX, draw_sheet
from pipeline.training.recipe import TrainRecipe
from pipeline.training.samples import Photos, Samples, product_crop

SIZE = (160, 128)
LIGHT = Light((-0.4, -0.6, 0.69), 0.5, 0.5)


def product(material: Material, kind: str, seed: int = 1, height_px: int = 90) -> Layer:
    pictures = Pictures(material, np.random.default_rng(0))
    return draw_product(kind, seed, "pale", Pose(20, 10, 8), LIGHT, height_px, pictures)


def on(background: Any, layer: Layer) -> Canvas:
    canvas = Canvas(background)
    canvas.put(layer, 9, 7, wanted=True)
    return canvas


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_is_exact_before_any_background(material: Material, kind: str) -> None:
    """Image = F + (1 - alpha) B with the same premultiplied F before both backgrounds."""
    layer, rng = product(material, kind), np.random.default_rng(0)
    backgrounds = rng.random((2, layer.shape[0] + 20, layer.shape[1] + 20, 3), np.float32)
    one, other = (on(background, layer) for background in backgrounds)
    np.testing.assert_array_equal(one.alpha, other.alpha)
    through = (1 - one.alpha[..., None]) * (backgrounds[0] - backgrounds[1])
    assert np.abs(one.image - other.image - through).max() < 1e-5
    assert (one.image[one.alpha == 0] == backgrounds[0][one.alpha == 0]).all()
    levels = np.rint(255 * one.image) - np.rint(255 * (other.image + through))
    assert np.abs(levels).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_products_have_colours_within_their_alpha_and_soft_edges(material: Material, kind: str) -> None:
    layer = product(material, kind)
    assert layer.dtype == np.float32
    assert layer.min() >= 0
    assert (layer[..., :3] <= layer[..., 3:] + 2 / 255).all()
    assert layer[..., 3].max() == 1
    assert ((layer[..., 3] > 0.1) & (layer[..., 3] < 0.9)).any()
    assert 70 < len(layer) < 140


def test_alpha_is_the_covered_share_of_a_pixel() -> None:
    opacity = np.zeros((8, 8), np.uint8)
    opacity[1:6, 2:8] = 255  # half of rows 0, all of rows 1 and 2
    artwork = Drawing(np.full((4, 4, 3), 200, np.uint8), opacity).cut_out()
    np.testing.assert_array_equal(artwork[:, 2, 3], [128, 255, 255, 0])
    assert artwork[0, 2, 0] == 100


def test_glass_is_partly_transparent(material: Material) -> None:
    layers = [product(material, "bottle", seed) for seed in range(12)]
    shares = [float(((layer[..., 3] > 0.3) & (layer[..., 3] < 0.95)).mean()) for layer in layers]
    assert max(shares) > 0.25
    assert min(shares) < 0.1  # opaque plastic: its edges only


def test_a_design_is_the_same_in_every_pose(material: Material) -> None:
    pictures = Pictures(material, np.random.default_rng(0))
    poses = (Pose(-20, 10), Pose(-20, 10), Pose(25, 10))
    first, again, turned = (draw_product("gable", 5, "vivid", pose, LIGHT, 120, pictures) for pose in poses)
    np.testing.assert_array_equal(first, again)
    colours = [layer[layer[..., 3] == 1][:, :3] for layer in (first, turned)]
    assert np.abs(np.median(colours[0], 0) - np.median(colours[1], 0)).max() < 0.2


def test_what_covers_a_product_leaves_the_ground_truth_and_shadows_do_not() -> None:
    canvas = Canvas(np.full((4, 4, 3), 0.5, np.float32))
    canvas.put(np.ones((4, 4, 4), np.float32), 0, 0, wanted=True)
    canvas.put(np.full((4, 4, 4), 0.25, np.float32), 2, 0)
    canvas.shade(np.full((2, 4), 0.5, np.float32), 0, 0)
    np.testing.assert_allclose(canvas.alpha, np.tile([1, 1, 0.75, 0.75], (4, 1)))
    np.testing.assert_allclose(canvas.image[:, 0, 0], [0.5, 0.5, 1, 1])


def test_a_layer_may_reach_past_every_edge() -> None:
    layer = np.ones((10, 10, 4), np.float32)
    for x, y in ((-4, -4), (-20, 0), (20, 20), (3, -30)):
        canvas = Canvas(np.zeros((6, 6, 3), np.float32))
        canvas.put(layer, x, y, wanted=True)
        assert canvas.alpha.sum() == max(0, min(6, x + 10) - max(0, x)) * max(0, min(6, y + 10) - max(0, y))


@pytest.mark.parametrize("seed", range(6))
def test_a_hand_is_background(material: Material, seed: int) -> None:
    layer, canvas = product(material, "carton"), Canvas(np.zeros((*SIZE, 3), np.float32))
    hand = Hand(layer, (20, 30), 0, LIGHT, np.random.default_rng(seed))
    hand.put_behind(canvas)
    assert canvas.alpha.max() == 0
    assert canvas.image.max() > 0.1
    canvas.put(layer, 20, 30, wanted=True)
    free = canvas.alpha.copy()
    hand.put_front(canvas)
    assert (canvas.alpha <= free + 1e-6).all()
    assert 0.3 * free.sum() < canvas.alpha.sum() < 0.995 * free.sum()


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_scene_is_a_function_of_its_seed(material: Material, arrangement: Any) -> None:
    first, again, other = (make_product_scene(material, np.random.default_rng(seed), SIZE, arrangement) for seed in (3, 3, 4))
    for plane in (0, 1):
        np.testing.assert_array_equal(first[plane], again[plane])
    assert first.box == again.box
    assert (first.image != other.image).any()


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_the_box_holds_the_object_and_all_values_are_in_range(material: Material, arrangement: Any) -> None:
    boxes = []
    for seed in range(8):
        scene = make_product_scene(material, np.random.default_rng(seed), SIZE, arrangement)
        assert scene.image.shape == (*SIZE, 3)
        assert scene.alpha.shape == SIZE
        assert scene.image.dtype == scene.alpha.dtype == np.uint8
        assert scene.arrangement == arrangement
        assert scene.image.std() > 2
        assert 0.004 < (scene.alpha > 127).mean() < 1
        if scene.box:
            x0, y0, x1, y1 = scene.box
            assert scene.alpha[y0:y1, x0:x1].astype(int).sum() > 0.97 * scene.alpha.astype(int).sum()
        boxes.append(scene.box is not None)
    expected = {"studio": {False}, "table": {False}, "shelf": {True}, "crate": {True}}.get(arrangement, {False, True})
    assert set(boxes) == expected


def test_every_kind_and_arrangement_appears(material: Material) -> None:
    rng = np.random.default_rng(0)
    assert {draw_kind(rng) for _ in range(300)} == set(PACKAGES)
    assert {make_product_scene(material, rng, (64, 64)).arrangement for _ in range(60)} == set(ARRANGEMENTS)
    sizes = [draw_size(rng) for _ in range(40)]
    assert any(height > width for height, width in sizes) and any(height < width for height, width in sizes)


def test_samples_of_products_are_made_without_photos(material: Material) -> None:
    recipe = TrainRecipe.model_validate(
        {
            "name": "products",
            "variant": "mvanet-lite",
            "stages": [{"frame_px": 128, "batch": 1, "steps": 200}],
            "views": {"whole": 0, "box": 0, "pair": 0, "composite": 0, "products": 1},
        }
    )
    samples = Samples(Photos((), Files(Storage())), material, recipe, 128)
    first, again = samples[0], samples[0]
    assert first.frame.shape == (128, 128, 3)
    assert first.alpha.max() > 127
    assert all((one == two).all() for one, two in zip(first, again, strict=True))
    regions = {product_crop(material, np.random.default_rng(seed)).region for seed in range(4)}
    assert len(regions) == 4


def test_products_need_material() -> None:
    recipe = TrainRecipe.model_validate(
        {
            "name": "none",
            "variant": "mvanet-lite",
            "stages": [{"frame_px": 128, "batch": 1, "steps": 200}],
            "views": {"products": 9},
        }
    )
    samples = Samples(Photos((), Files(Storage())), None, recipe, 128)
    assert samples.shares[samples.views.index("products")] == 0


def test_the_sheet_has_a_cell_per_scene(material: Material) -> None:
    sheet = draw_sheet(material, 1, scenes=3, columns=2)
    assert sheet.shape == (2 * CELL_PX, 2 * CELL_PX, 3)
    assert (sheet[CELL_PX:, CELL_PX:] == 255).all()
    assert (sheet == (255, 0, 255)).all(2).any()
