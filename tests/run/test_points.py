"""Runs of manifests with points on the objects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import Segmenter, run
from pipeline.errors import ConfigError, ItemRefused
from pipeline.run.stages.videos import request_of

BUDGET = {"budget.allowed_failed": 100}


@pytest.fixture
def photo(tmp_path: Path) -> Any:
    """Two bright rectangles."""
    pixels = np.full((120, 200, 3), 20, np.uint8)
    pixels[30:90, 20:80] = pixels[40:80, 120:180] = 230
    Image.fromarray(pixels).save(tmp_path / "two.png")
    return pixels


def manifest(folder: Path, *rows: dict[str, Any]) -> Path:
    columns = {name: [row.get(name) for row in rows] for name in ("item_id", "point", "label")}
    kinds = {"box": pa.array([row.get("box") for row in rows], pa.list_(pa.float64()))}
    pq.write_table(pa.table({"image_uri": ["two.png"] * len(rows), **columns, **kinds}), folder / "m.parquet")
    return folder / "m.parquet"


def index(output: Path) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in ds.dataset(output / "index", format="parquet").to_table().to_pylist()}


def mask(output: Path, name: str) -> Any:
    return np.asarray(Image.open(output / "masks" / f"{name}.png"))


@pytest.mark.parametrize("place", ["process", "ray"])
def test_a_point_picks_the_object_as_cut_does(
    tmp_path: Path, photo: Any, fake_preset: str, place: str, request: pytest.FixtureRequest
) -> None:
    if place == "ray":
        request.getfixturevalue("ray_session")
    rows = (
        {"item_id": "left", "point": "50,60"},
        {"item_id": "right", "point": "[150, 60]"},
        {"item_id": "both"},
        {"item_id": "beside", "point": "100,10"},
        {"item_id": "bad", "point": "here"},
        {"item_id": "twice", "point": "50,60", "box": [10.0, 10.0, 90.0, 100.0]},
    )
    settings = BUDGET | {"compute.local_items": 100 if place == "process" else 0}
    run(manifest(tmp_path, *rows), tmp_path / "out", preset=fake_preset, settings=settings)
    found = index(tmp_path / "out")
    failed = {name: row["error_code"] for name, row in found.items() if row["error_code"]}
    assert failed == {"beside": "prompt", "bad": "item", "twice": "item"}
    assert "no object was found at the point 100,10" in found["beside"]["error_detail"]
    assert found["left"]["point"] == "50,60"
    segmenter = Segmenter(fake_preset)
    for name, at in (("left", (50, 60)), ("right", (150, 60))):
        expected = segmenter(photo, point=at)
        assert np.array_equal(mask(tmp_path / "out", name), expected.mask)
        assert found[name]["quality"] == pytest.approx(expected.quality)
    assert mask(tmp_path / "out", "both")[60, [50, 150]].min() > 127


def test_another_point_is_another_item(tmp_path: Path, photo: Any, fake_preset: str, logged: list[logging.LogRecord]) -> None:
    first, other = {"item_id": "a", "point": "50,60"}, {"item_id": "b", "point": "50,60"}
    run(manifest(tmp_path, first, other), tmp_path / "out", preset=fake_preset)
    run(manifest(tmp_path, first, other | {"point": " (50, 60) "}), tmp_path / "out", preset=fake_preset)
    assert not [one for one in logged if "another image, box or point" in one.getMessage()], "the same in other words"
    moved = manifest(tmp_path, first, other | {"point": "150,60"})
    run(moved, tmp_path / "out", preset=fake_preset)
    (told,) = [one.getMessage() for one in logged if "another image, box or point" in one.getMessage()]
    assert "with the point 50,60 and is " in told and "with the point 150,60" in told
    assert mask(tmp_path / "out", "b")[60, 50] > 127, "it stays as it is"
    record = run(moved, tmp_path / "out", preset=fake_preset, changed=True)
    assert record.ok + record.review == 1
    assert mask(tmp_path / "out", "b")[60, 150] > 127 and mask(tmp_path / "out", "b")[60, 50] < 128
    with pytest.raises(ConfigError, match="other images, boxes or points"):
        run(manifest(tmp_path, first | {"point": "150,60"}, other), tmp_path / "out", preset=fake_preset)


def test_a_point_and_a_label_are_refused(tmp_path: Path, photo: Any, fake_preset: str) -> None:
    rows = {"item_id": "a", "point": "50,60", "label": "cat"}, {"item_id": "b", "point": "50,60"}
    settings = BUDGET | {"recipe.detector": {"preset": "nanodet", "label": ["dog"]}, "compute.device": "cpu"}
    run(manifest(tmp_path, *rows), tmp_path / "out", preset=fake_preset, settings=settings)
    found = index(tmp_path / "out")
    assert found["a"]["error_code"] == "item"
    assert found["a"]["error_detail"] == "the row has a point and a label; keep one of them"
    assert found["b"]["error_code"] is None and found["b"]["prompt"] is None


def test_a_video_has_no_point(stage_context: Callable[..., Any]) -> None:
    row = {"item_id": "a", "output_name": "a", "image_uri": "/a.mp4", "box": None, "point": "50,60"}
    with pytest.raises(ItemRefused, match="a point is for a picture; give the box of the object in the first frame"):
        request_of(row, (), stage_context())
