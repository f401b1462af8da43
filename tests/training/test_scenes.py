from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.training.material import Material
from pipeline.training.scenes import FACTORS, FINISHES, KINDS, SIDE_PX, make_scene

SIDE = 240


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_scene(material: Material, kind: Any) -> None:
    first, again, other = (make_scene(material, seed, kind, "noisy", 4, side=SIDE) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.base, again.base)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("finish", FINISHES)
def test_every_kind_and_finish_has_the_documented_shapes_and_ranges(material: Material, kind: Any, finish: Any) -> None:
    scene = make_scene(material, 3, kind, finish, 4, side=SIDE)
    assert scene.image.shape == (SIDE, SIDE, 3)
    assert scene.image.dtype == np.uint8
    assert scene.foreground.shape == (SIDE, SIDE, 3)
    assert scene.base.shape == scene.frame.shape[:2] == (SIDE // 4, SIDE // 4)
    for alpha in (scene.alpha, scene.base):
        assert alpha.dtype == np.float32
        assert 0 <= alpha.min() < 0.1
        assert 0.9 < alpha.max() <= 1 or kind in {"glass", "straps"}
    assert 0.005 < scene.alpha.mean() < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_opaque_pixels_have_the_foregrounds_colour(material: Material, kind: Any) -> None:
    scene = make_scene(material, 5, kind, "sharp", 2, side=SIDE)
    opaque = scene.alpha == 1
    if opaque.any():
        assert np.abs(scene.image[opaque] - scene.foreground[opaque]).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", FACTORS)
def test_the_simulated_base_has_errors_only_near_edges(material: Material, factor: int) -> None:
    scene = make_scene(material, 7, "fur", "sharp", factor, side=SIDE)
    reduced = scene.alpha.reshape(SIDE // factor, factor, SIDE // factor, factor).mean((1, 3))
    off = np.abs(scene.base - reduced)
    assert 0.001 < off.mean() < 0.06
    assert off[(reduced < 1e-3) | (reduced > 0.999)].mean() < 0.02


def test_every_factor_divides_the_side() -> None:
    assert all(SIDE_PX % factor == 0 for factor in (*FACTORS, 3, 8))


def test_hair_is_finer_than_the_frame(material: Material) -> None:
    """Otherwise a refiner would have nothing to restore."""
    scene = make_scene(material, 2, "hair", "sharp", 4, side=SIDE)
    reduced = scene.alpha.reshape(SIDE // 4, 4, SIDE // 4, 4).mean((1, 3))
    soft = (scene.alpha > 0.02) & (scene.alpha < 0.98)
    enlarged = reduced.repeat(4, 0).repeat(4, 1)
    assert np.abs(enlarged - scene.alpha)[soft].mean() > 0.1


def test_the_splits_share_nothing_and_licences_are_respected(tmp_path: Path, material: Material) -> None:
    for folder, name, columns in (
        ("objects", "object_id", {"licence": ["MIT", "GPL"] * 30, "rgba": [bytes([number]) for number in range(60)]}),
        ("backgrounds", "background_id", {"image": [bytes([number]) for number in range(60)]}),
    ):
        (tmp_path / folder).mkdir()
        rows = pa.table({name: [f"object-{number}" for number in range(60)], **columns})
        pq.write_table(rows, tmp_path / folder / f"{folder}.parquet")
    objects = Material.read(tmp_path).objects
    assert 3 < len(objects["held_out"]) < 30
    assert not set(objects["held_out"]) & set(objects["train"])
    assert len(objects["held_out"]) + len(objects["train"]) == 60
    permissive = Material.read(tmp_path, licences=("MIT",)).objects
    assert len(permissive["held_out"]) + len(permissive["train"]) == 30
    assert set(permissive["held_out"]) <= set(objects["held_out"])


def test_missing_material_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objects\.parquet does not exist"):
        Material.read(tmp_path)
