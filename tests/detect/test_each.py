"""Boxes of several salient objects, without names: ``recipe.detector.many=each``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import Segmenter, run
from pipeline.config.job import load_job
from pipeline.detect.driver import Summary, detect
from pipeline.detect.stages import model_of
from pipeline.errors import ConfigError

LEFT, RIGHT = (20, 30, 80, 90), (120, 40, 180, 80)
NOWHERE = {"model": "owlv2", "weights": "no-such-folder", "threshold": 0.3, "many": "each"}


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, str]:
    """A photo of two bright objects, and one of none."""
    two = np.full((120, 200, 3), 20, np.uint8)
    for x0, y0, x1, y1 in (LEFT, RIGHT):
        two[y0:y1, x0:x1] = 230
    (tmp_path / "photos").mkdir()
    for name, picture in {"two": two, "none": np.full_like(two, 20)}.items():
        Image.fromarray(picture).save(tmp_path / "photos" / f"{name}.png")
    return {name: str(tmp_path / "photos" / f"{name}.png") for name in ("two", "none")}


def find(folder: Path, preset: str, rows: list[dict[str, Any]], local_items: int = 100, **detector: Any) -> Summary:
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    overrides = {"recipe.detector": NOWHERE | detector, "compute.device": "cpu", "compute.local_items": local_items}
    job = load_job(manifest=str(folder / "manifest.parquet"), output="unused", preset=preset, overrides=overrides)
    return detect(job, str(folder / "boxes.parquet"))


def boxes(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in pq.read_table(folder / "boxes.parquet").to_pylist()}


@pytest.mark.parametrize("local_items", [100, 0])
def test_every_object_has_a_row_and_no_detector_is_needed(
    tmp_path: Path, photos: dict[str, str], fake_preset: str, local_items: int, request: pytest.FixtureRequest
) -> None:
    if not local_items:
        request.getfixturevalue("ray_session")
    rows = [
        {"item_id": "a", "image_uri": photos["two"], "box": None, "point": None},
        {"item_id": "b", "image_uri": photos["none"], "box": None},
        {"item_id": "c", "image_uri": photos["two"], "box": [10.0, 10.0, 100.0, 100.0]},
        {"item_id": "d", "image_uri": photos["two"], "point": "50,60"},
    ]
    summary = find(tmp_path, fake_preset, rows, local_items)
    found = boxes(tmp_path)
    assert set(found) == {"a#0", "a#1", "c", "d"}
    for name, (x0, y0, x1, y1) in {"a#0": LEFT, "a#1": RIGHT}.items():
        assert found[name]["box"] == pytest.approx([x0, y0, x1, y1], abs=3)
        assert found[name]["box_label"] == "auto"
    assert found["a#0"]["box_score"] > found["a#1"]["box_score"] > 0
    assert found["a#0"]["box_score"] + found["a#1"]["box_score"] == pytest.approx(1)
    assert found["c"]["box"] == [10, 10, 100, 100] and found["c"]["box_score"] is None
    assert (found["d"]["box"], found["d"]["point"]) == (None, "50,60")
    assert (summary.items, summary.boxes, summary.failures) == (4, 3, {"prompt": 1})
    assert "no salient object was found" in summary.examples["prompt"]


def test_a_run_of_the_boxes_cuts_out_one_object_each(tmp_path: Path, photos: dict[str, str], fake_preset: str) -> None:
    rows = [{"item_id": name, "image_uri": uri, "box": None} for name, uri in photos.items()]
    find(tmp_path, fake_preset, rows, missing="salient")
    assert set(boxes(tmp_path)) == {"two#0", "two#1", "none"}, "a photo without an object stays as it is"
    run(tmp_path / "boxes.parquet", tmp_path / "out", preset=fake_preset)
    masks = {path.stem: np.asarray(Image.open(path)) > 127 for path in (tmp_path / "out" / "masks").glob("*.png")}
    assert masks["two#0"][60, 50] and not masks["two#0"][60, 150]
    assert masks["two#1"][60, 150] and not masks["two#1"][60, 50]


def test_names_and_auto_in_one_manifest(
    tmp_path: Path, photos: dict[str, str], fake_preset: str, tiny_detectors: dict[str, Path]
) -> None:
    rows = [
        {"item_id": "auto", "image_uri": photos["two"], "label": "auto"},
        {"item_id": "cup", "image_uri": photos["two"], "label": "cup"},
        {"item_id": "unnamed", "image_uri": photos["two"], "label": None},
    ]
    find(tmp_path, fake_preset, rows, weights=str(tiny_detectors["owlv2"]), max_boxes=1)
    labels = {name: row["box_label"] for name, row in boxes(tmp_path).items()}
    assert labels == {"auto#0": "auto", "cup#0": "cup", "unnamed#0": "auto"}


def test_another_model_needs_another_work_folder(tmp_path: Path, photos: dict[str, str], fake_preset: str) -> None:
    rows = [{"item_id": "a", "image_uri": photos["two"], "box": None}]
    find(tmp_path, fake_preset, rows)
    with pytest.raises(ConfigError, match=r"begun with another detector \(recipe\)"):
        find(tmp_path, "u2netp", rows)


def test_the_licence_of_the_model_is_asked_for(
    tmp_path: Path, photos: dict[str, str], matteline: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.Table.from_pylist([{"item_id": "a", "image_uri": photos["two"]}]), tmp_path / "manifest.parquet")
    command = ["detect", "-m", "manifest.parquet", "-o", "boxes.parquet", "-p", "rmbg-1.4"]
    each = ["--set", "recipe.detector.many=each"]
    done = matteline(*command, *each)
    assert done.returncode == 2 and "pass --accept-licence" in done.stderr

    def reached(*_: Any, **__: Any) -> Any:
        raise ConfigError("the licence is accepted")

    monkeypatch.setattr("pipeline.detect.driver.resolve_finder", reached)
    assert "the licence is accepted" in matteline(*command, *each, "--accept-licence").stderr


@pytest.mark.parametrize(("many", "expected"), [("each", True), ("best", False)])
def test_only_a_model_that_is_used_decides_about_the_gpu(many: str, expected: bool) -> None:
    job = load_job(manifest="m", output="unused", preset="u2netp", overrides={"recipe.detector": NOWHERE | {"many": many}})
    model = model_of(job.recipe)
    assert (model is not None and model.model == "onnx" and model.detector is None) == expected


def test_elsewhere_it_is_refused(tmp_path: Path, photos: dict[str, str], fake_preset: str) -> None:
    with pytest.raises(ConfigError, match="find their boxes with matteline detect"):
        run(tmp_path / "photos", tmp_path / "out", preset=fake_preset, settings={"recipe.detector": NOWHERE})
    with pytest.raises(ConfigError, match="find their boxes with matteline detect"):
        Segmenter(fake_preset, detector=NOWHERE)
