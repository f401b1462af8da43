"""Rendered hard cases: nothing of training is in them, and every case shows what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.quality.tags import tags
from pipeline.training.crops import bounding_box
from pipeline.training.material import Material
from pipeline.training.products import catalogue, grounds, hard_cases, thin_things
from pipeline.training.products.hard_cases import (
    CASES,
    FIRST_DESIGN,
    NEEDS_BOX,
    RIM,
    _straight,
    make_case,
    rim_contrast,
    write_cases,
)
from pipeline.training.products.thin_things import draw_thin

WITHOUT_DRAWINGS = [case for case in CASES if case != "thin parts"]
"""The tests' material has no drawing with thin parts."""


@pytest.fixture
def held_out(material: Material) -> Material:
    return material.held_out()


def test_nothing_of_training_is_held_out(material: Material, held_out: Material) -> None:
    assert held_out.objects["train"] and held_out.photos["train"]
    assert not set(held_out.objects["train"]) & set(material.objects["train"])
    assert not set(held_out.photos["train"]) & set(material.photos["train"])


@pytest.mark.parametrize("case", WITHOUT_DRAWINGS)
def test_a_case_is_a_function_of_its_number(held_out: Material, case: str) -> None:
    one, again, other = (make_case(held_out, case, number) for number in (1, 1, 2))
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.alpha, again.alpha)
    assert one.image.shape != other.image.shape or (one.image != other.image).any()
    assert one.image.shape[:2] == one.alpha.shape and bounding_box(one.alpha) is not None


@pytest.mark.parametrize("case", WITHOUT_DRAWINGS)
def test_designs_are_those_that_training_never_draws(held_out: Material, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw_product = [], catalogue.draw_product
    monkeypatch.setattr(
        catalogue, "draw_product", lambda kind, seed, *rest: drawn.append(seed) or draw_product(kind, seed, *rest)
    )
    make_case(held_out, case, 0)
    assert drawn and min(drawn) >= FIRST_DESIGN


def test_the_cases_look_as_they_are_called(held_out: Material) -> None:
    for case, low, high in (("white on white", 0.85, 1.0), ("black on black", 0.0, 0.2)):
        for number in range(4):
            image, alpha, _ = make_case(held_out, case, number)
            assert low <= image[alpha == 0].mean() / 255 <= high
    image, alpha, _ = make_case(held_out, "transparent", 0)
    box = bounding_box(alpha)
    assert box is not None
    inside = alpha[box[1] : box[3], box[0] : box[2]]
    assert ((inside > 60) & (inside < 245)).mean() > 0.15


@pytest.mark.parametrize("case", ["white on white", "black on black"])
def test_what_is_like_its_ground_has_a_rim_without_contrast(held_out: Material, case: str) -> None:
    for number in range(6):
        made = make_case(held_out, case, number)
        assert RIM[0] <= rim_contrast(made.image, made.alpha) < RIM[1] == 0.12


def test_the_contrast_of_a_rim_by_hand() -> None:
    alpha = np.zeros((100, 120), np.uint8)
    alpha[30:, 40:80] = 255
    image = np.full((100, 120, 3), 200, np.uint8)
    assert rim_contrast(image, alpha) == pytest.approx(0, abs=1e-6)
    image[alpha > 0] = 149
    image[50:80, 50:70] = 0  # a print in the middle is not at the rim
    assert rim_contrast(image, alpha) == pytest.approx(51 / 255, abs=1e-6)
    assert rim_contrast(image, np.full_like(alpha, 255)) == 0, "the border of the picture is no rim"


def test_a_hard_shadow_is_cast_once(held_out: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    cast, cast_far = [], grounds.cast_far
    monkeypatch.setattr(grounds, "cast_far", lambda *arguments: cast.append(arguments[3].hardness) or cast_far(*arguments))
    for number in range(5):
        make_case(held_out, "hard shadow", number)
    assert cast == [1.0] * 5


def test_thin_things_are_drawn_or_grouped_by_their_drawing(
    held_out: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = _straight(draw_thin(np.random.default_rng(3), 200))
    monkeypatch.setattr(Material, "object", lambda *_: drawn)
    made = [make_case(held_out, "thin parts", number) for number in range(8)]
    groups = [one.group for one in made]
    assert len({group for group in groups if group}) == 1, "one drawing of the material"
    assert 0 < groups.count("") < 8, "each thing that is drawn for a picture is a group of its own"
    assert all("thin" in tags(one.alpha) for one in made)
    monkeypatch.setattr(hard_cases, "CASES", {"thin parts": CASES["thin parts"]})
    rows = pq.read_table(write_cases(held_out, tmp_path, items=8)).to_pylist()
    assert len({row["group"] for row in rows}) == groups.count("") + 1


@pytest.mark.parametrize("kind", thin_things.KINDS)
def test_every_thin_thing_is_thin(kind: thin_things.Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thin_things, "KINDS", (kind,))
    for seed in range(3):
        layer = draw_thin(np.random.default_rng(seed), 256)
        assert layer.shape == (256, 256, 4) and layer.dtype == np.float32
        assert "thin" in tags(np.asarray(255 * layer[..., 3], np.uint8))
        assert (layer[..., :3] <= layer[..., 3:] + 1e-6).all(), "premultiplied"


def test_the_manifest_has_each_picture_with_and_without_its_box(
    held_out: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(CASES, "thin parts")
    rows = pq.read_table(write_cases(held_out, tmp_path, items=1)).to_pylist()
    assert len(rows) == 2 * len(CASES) - len(NEEDS_BOX)
    by_id = {row["item_id"]: row for row in rows}
    assert by_id["hand-held-000"]["box"] is None and by_id["hand-held-000"]["tags"] == ["rendered: hand-held"]
    boxed = by_id["hand-held-000@tight"]
    assert boxed["tags"] == ["rendered: hand-held, boxed"] and boxed["group"] == "hand-held-000"
    assert "one-of-several-000" not in by_id
    sizes = {Image.open(tmp_path / boxed[name]).size for name in ("image_uri", "truth_uri")}
    assert len(sizes) == 1
