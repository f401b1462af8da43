"""From a manifest with names to one with boxes: its rows, its continuation, and the run that follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run
from pipeline.config.job import Budget, load_job
from pipeline.detect.driver import Summary, detect
from pipeline.errors import ConfigError, ErrorBudgetExceeded
from pipeline.paths import EXAMPLES

Detect = Callable[..., Summary]


@pytest.fixture
def photos(tmp_path: Path, make_photos: Callable[..., list[Path]]) -> list[str]:
    return [str(path) for path in make_photos(tmp_path / "photos", 4)]


@pytest.fixture
def find(tmp_path: Path, tiny_detectors: dict[str, Path]) -> Detect:
    """``find(rows, threshold=0.3)`` writes the rows as a manifest, and ``boxes.parquet`` beside it."""

    def make(rows: list[dict[str, Any]], retry: tuple[str, ...] = (), local_items: int = 100, **detector: Any) -> Summary:
        columns = {name: [row.get(name) for row in rows] for name in ("item_id", "image_uri", "box", "label", "sku")}
        table = pa.table({"box": pa.array(columns.pop("box"), pa.list_(pa.float64())), **columns})
        pq.write_table(table, tmp_path / "manifest.parquet")
        settings = {"model": "owlv2", "weights": str(tiny_detectors["owlv2"]), "threshold": 0.3} | detector
        overrides = {"recipe.detector": settings, "compute.device": "cpu", "compute.local_items": local_items}
        overrides["run.retry"] = retry
        job = load_job(manifest=str(tmp_path / "manifest.parquet"), output="unused", overrides=overrides)
        return detect(job, str(tmp_path / "boxes.parquet"))

    return make


def boxes(tmp_path: Path) -> list[dict[str, Any]]:
    return sorted(pq.read_table(tmp_path / "boxes.parquet").to_pylist(), key=lambda row: str(row["item_id"]))


def by_item(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["item_id"].partition("#")[0], []).append(row)
    return grouped


def test_one_row_per_box_and_a_run_of_them(find: Detect, photos: list[str], tmp_path: Path, fake_preset: str) -> None:
    rows = [
        {"item_id": "cup", "image_uri": photos[0], "label": "Tasse", "sku": "a"},
        {"item_id": "auto", "image_uri": photos[1], "label": "auto", "sku": "b"},
        {"item_id": "box", "image_uri": photos[2], "label": "cup", "box": [5.0, 5.0, 60.0, 60.0]},
        {"item_id": "gone", "image_uri": photos[0] + ".not", "label": "cup"},
    ]
    summary = find(rows, max_boxes=2)
    found = by_item(boxes(tmp_path))
    assert [row["item_id"] for row in found["cup"]] == ["cup#0", "cup#1"]
    scores = [row["box_score"] for row in found["cup"]]
    assert scores == sorted(scores, reverse=True)
    assert all(row["box_label"] == "Tasse" and row["sku"] == "a" and row["box"][2] > row["box"][0] for row in found["cup"])
    assert [(row["item_id"], row["box"], row["box_score"]) for row in found["auto"]] == [("auto", None, None)]
    assert [(row["item_id"], row["box"], row["box_score"]) for row in found["box"]] == [("box", [5.0, 5.0, 60.0, 60.0], None)]
    assert "gone" not in found
    assert (summary.items, summary.boxes, summary.failures) == (4, 3, {"fetch": 1})
    record = run(tmp_path / "boxes.parquet", tmp_path / "out", preset=fake_preset)
    assert (record.items, record.failed, record.ok + record.review) == (4, 0, 4)


def test_it_continues_and_takes_up_new_rows(find: Detect, photos: list[str], tmp_path: Path) -> None:
    rows = [{"item_id": f"i{number}", "image_uri": uri, "label": "cup"} for number, uri in enumerate(photos)]
    find(rows[:2])
    before = boxes(tmp_path)
    parts = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "boxes.parquet.work" / "parts").iterdir()}
    find(rows)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "boxes.parquet.work" / "parts").iterdir()}
    assert parts.items() <= after.items()
    assert [row for row in boxes(tmp_path) if row["item_id"] in {one["item_id"] for one in before}] == before
    assert set(by_item(boxes(tmp_path))) == {"i0", "i1", "i2", "i3"}
    find(rows[3:])
    assert set(by_item(boxes(tmp_path))) == {"i3"}  # rows that have left the manifest leave the target


def test_failed_items_are_tried_again_when_asked(find: Detect, photos: list[str], tmp_path: Path) -> None:
    later = tmp_path / "photos" / "later.jpg"
    rows = [
        {"item_id": "a", "image_uri": str(later), "label": "cup"},
        {"item_id": "b", "image_uri": photos[1], "label": "x" * 300},
    ]
    assert find(rows).failures == {"fetch": 1, "prompt": 1}
    later.write_bytes(Path(photos[0]).read_bytes())
    assert find(rows).failures == {"fetch": 1, "prompt": 1}
    assert find(rows, retry=("fetch",)).failures == {"prompt": 1}
    rows[1]["label"] = "cup"
    assert find(rows).failures == {}, "a corrected row is another request"
    assert set(by_item(boxes(tmp_path))) == {"a", "b"}


def test_nothing_found_is_a_failure_or_the_whole_picture(find: Detect, photos: list[str], tmp_path: Path) -> None:
    rows = [{"item_id": "a", "image_uri": photos[0], "label": "cup"}]
    summary = find(rows, threshold=0.99999)
    assert summary.failures == {"prompt": 1}
    assert "no 'cup' was found" in summary.examples["prompt"]
    assert boxes(tmp_path) == []
    with pytest.raises(ErrorBudgetExceeded, match="1 of 1 items failed"):
        summary.check(Budget())
    Summary(items=20, failures={"fetch": 10}).check(Budget())
    with pytest.raises(ErrorBudgetExceeded, match="11 of 20 items failed"):
        Summary(items=20, failures={"fetch": 11}).check(Budget())
    with pytest.raises(ConfigError, match=r"begun with another detector \(missing\)"):
        find(rows, threshold=0.99999, missing="salient")


def test_ray_gives_the_same_rows(find: Detect, photos: list[str], tmp_path: Path, ray_session: None) -> None:
    rows = [{"item_id": f"i{number}", "image_uri": uri, "label": "cup"} for number, uri in enumerate(photos)]
    local = find(rows)
    expected = boxes(tmp_path)
    for path in (tmp_path / "boxes.parquet.work" / "parts").iterdir():
        path.unlink()
    assert find(rows, local_items=0) == local
    found = boxes(tmp_path)
    for name in ("box_score", "box"):  # another number of threads may round otherwise
        found_values, values = ([row.pop(name) for row in some] for some in (found, expected))
        np.testing.assert_allclose(np.array(found_values), np.array(values), rtol=1e-5)
    assert found == expected


def test_the_target_is_a_parquet_file(find: Detect, tmp_path: Path, tiny_detectors: dict[str, Path]) -> None:
    job = load_job(manifest="m", output="unused", overrides={"recipe.detector": "owlv2-base"})
    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        detect(job, str(tmp_path / "boxes.csv"))


def test_common_names_need_no_configured_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command, offline: ``matteline detect -m … --label bird``. A name of another kind in a row fails that row."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    rows = {
        "item_id": ["osprey", "cat", "teapot"],
        "image_uri": [str(EXAMPLES / f"{one}.jpg") for one in ("osprey", "cat", "teapot")],
    }
    pq.write_table(pa.table(rows | {"label": [None, "CAT", "teapot"]}), tmp_path / "manifest.parquet")
    overrides = {"recipe.detector.label": ["bird"], "compute.device": "cpu", "storage.allow_roots": [str(EXAMPLES)]}
    job = load_job(manifest=str(tmp_path / "manifest.parquet"), output="unused", overrides=overrides)
    summary = detect(job, str(tmp_path / "boxes.parquet"))
    assert (summary.items, summary.failures) == (3, {"prompt": 1})
    assert "'teapot' is none of the 80 names" in summary.examples["prompt"]
    found = by_item(boxes(tmp_path))
    assert len(found["osprey"]) > 1
    assert [row["box_label"] for row in found["cat"]] == ["CAT"]
