from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.models.estimator import SIDE_PX
from pipeline.training.estimator_products import FIRST, _choose_box, score_products
from pipeline.training.material import Material


@pytest.fixture(scope="module")
def data(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve objects and twelve photos, so that some are for training."""
    folder = tmp_path_factory.mktemp("data")
    tables = {
        "objects": [{"object_id": f"o{n}", "licence": "MIT", "rgba": material.objects["train"][n % 2]} for n in range(12)],
        "backgrounds": [{"background_id": f"b{n}", "image": material.photos["train"][n % 2]} for n in range(12)],
    }
    for name, rows in tables.items():
        (folder / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), folder / name / f"{name}.parquet")
    return folder


def test_products_are_scored_and_existing_parts_are_reused(data: Path, tmp_path: Path) -> None:
    found = score_products(data, tmp_path, count=3, processes=1)
    assert 1 <= len(found.dice) <= 3
    assert found.frames.shape[1:] == (SIDE_PX, SIDE_PX, 3) and found.maps.shape[1:] == (SIDE_PX, SIDE_PX)
    assert all(FIRST <= number < FIRST + 3 for number in found.photos)
    assert ((found.dice >= 0) & (found.dice <= 1)).all()
    (part,) = tmp_path.glob("products-*/*.npz")
    written = part.stat().st_mtime_ns
    again = score_products(data, tmp_path, count=3, processes=1)
    assert part.stat().st_mtime_ns == written
    assert np.array_equal(again.dice, found.dice)


def test_one_of_several_is_asked_for_with_a_box() -> None:
    truth = np.zeros((200, 300), np.uint8)
    truth[60:120, 40:100] = 255
    boxes = [_choose_box(truth, np.random.default_rng(seed), needed=True) for seed in range(60)]
    assert None not in boxes
    assert all(box.x1 - box.x0 < 250 for box in boxes if box)
    assert None in [_choose_box(truth, np.random.default_rng(seed), needed=False) for seed in range(60)]
