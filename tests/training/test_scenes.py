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
def test_a_seed_is_a_scene(material: Material, kind: Any) -> None:
    first, again, other = (make_scene(material, seed, kind, "noisy", 4, side=SIDE) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.base, again.base)
    assert (first.image != other.image).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("finish", FINISHES)
def test_a_scene_is_what_it_says(material: Material, kind: Any, finish: Any) -> None:
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
def test_the_truth_explains_the_image(material: Material, kind: Any) -> None:
    """Where nothing but the object is seen, its colours are the image's."""
    scene = make_scene(material, 5, kind, "sharp", 2, side=SIDE)
    opaque = scene.alpha == 1
    if opaque.any():
        assert np.abs(scene.image[opaque] - scene.foreground[opaque]).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("factor", FACTORS)
def test_the_base_is_about_right(material: Material, factor: int) -> None:
    """Its opinion is the truth reduced, with errors near edges: neither perfect nor useless."""
    scene = make_scene(material, 7, "fur", "sharp", factor, side=SIDE)
    reduced = scene.alpha.reshape(SIDE // factor, factor, SIDE // factor, factor).mean((1, 3))
    off = np.abs(scene.base - reduced)
    assert 0.001 < off.mean() < 0.06
    assert off[(reduced < 1e-3) | (reduced > 0.999)].mean() < 0.02


def test_every_factor_divides_the_side() -> None:
    assert all(SIDE_PX % factor == 0 for factor in (*FACTORS, 3, 8))


def test_hair_is_finer_than_the_frame(material: Material) -> None:
    """Else there were nothing to bring back: enlarging the reduced truth must lose much of it."""
    scene = make_scene(material, 2, "hair", "sharp", 4, side=SIDE)
    reduced = scene.alpha.reshape(SIDE // 4, 4, SIDE // 4, 4).mean((1, 3))
    soft = (scene.alpha > 0.02) & (scene.alpha < 0.98)
    back = reduced.repeat(4, 0).repeat(4, 1)
    assert np.abs(back - scene.alpha)[soft].mean() > 0.1


def test_parts_share_nothing(tmp_path: Path, material: Material) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "backgrounds").mkdir()
    encoded = [*material.objects["tuning"], *material.objects["held_out"]]
    ids = [f"object-{number}" for number in range(60)]
    rows = {"object_id": ids, "licence": ["MIT", "GPL"] * 30, "rgba": [encoded[0] + bytes([number]) for number in range(60)]}
    pq.write_table(pa.table(rows), tmp_path / "objects" / "objects.parquet")
    photos = {"background_id": ids, "image": [bytes([number]) for number in range(60)]}
    pq.write_table(pa.table(photos), tmp_path / "backgrounds" / "backgrounds.parquet")
    found = Material.read(tmp_path)
    assert 3 < len(found.objects["held_out"]) < 30
    assert not set(found.objects["held_out"]) & set(found.objects["tuning"])
    assert len(found.objects["held_out"]) + len(found.objects["tuning"]) == 60
    permissive = Material.read(tmp_path, licences=("MIT",))
    assert len(permissive.objects["held_out"]) + len(permissive.objects["tuning"]) == 30
    assert set(permissive.objects["held_out"]) <= set(found.objects["held_out"])


def test_without_material_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"objects\.parquet"):
        Material.read(tmp_path)
