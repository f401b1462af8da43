"""Runs with names as prompts: the manifest's labels, what the index says, failures and their repetition."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run
from pipeline.errors import ConfigError
from pipeline.output.output import find_outputs
from pipeline.paths import EXAMPLES
from pipeline.storage.files import Files

IMPOSSIBLE = 0.99999


THRESHOLDS = {"owlv2": 0.3, "grounding-dino": 0.5}


@pytest.fixture
def model() -> str:
    """The detector of a test that is not run with both."""
    return "owlv2"


@pytest.fixture
def settings(tiny_detectors: dict[str, Path], model: str) -> dict[str, Any]:
    return {
        "recipe.detector": {"model": model, "weights": str(tiny_detectors[model]), "threshold": THRESHOLDS[model]},
        "budget.allowed_failed": 100,
        "compute.device": "cpu",
    }


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["item_id", "image_uri", "box", "label", "labels"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def index(output: Path) -> dict[str, dict[str, Any]]:
    (found,) = find_outputs(str(output), Files())
    rows = [row for part in found.parts() for row in pq.ParquetFile(part.uri).read().to_pylist()]
    return {row["item_id"]: row for row in rows}


def rows_of(photos: list[Path]) -> list[dict[str, Any]]:
    uris = [str(path) for path in photos]
    return [
        {"item_id": "name", "image_uri": uris[0], "label": "Übertopf"},
        {"item_id": "auto", "image_uri": uris[0], "label": "auto"},
        {"item_id": "box", "image_uri": uris[0], "label": "cup", "box": "10,10,60,60"},
        {"item_id": "several", "image_uri": uris[1], "labels": "cup; plant"},
        {"item_id": "none", "image_uri": uris[1]},
        {"item_id": "long", "image_uri": uris[1], "label": "x" * 300},
    ]


@pytest.mark.parametrize("model", THRESHOLDS)
def test_labels_of_a_manifest(
    tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, settings: dict[str, Any], model: str
) -> None:
    manifest = write(tmp_path / "manifest.csv", rows_of(make_photos(tmp_path / "photos", 2)))
    record = run(manifest, tmp_path / "out", preset=fake_preset, label="shoe", settings=settings)
    rows = index(tmp_path / "out")
    assert record.failed == 1
    assert {name: row["prompt"] for name, row in rows.items()} == {
        "name": ["Übertopf"],
        "auto": None,
        "box": None,
        "several": ["cup", "plant"],
        "none": ["shoe"],
        "long": None,
    }
    assert (rows["long"]["error_code"], rows["long"]["label"]) == ("prompt", "x" * 300)
    for name in ("auto", "box"):
        assert [rows[name][key] for key in ("detected_box", "detected_label", "detector_score")] == [None] * 3
    for name in ("name", "several", "none"):
        row = rows[name]
        x0, y0, x1, y1 = row["detected_box"]
        assert 0 <= x0 < x1 <= row["width"]
        assert 0 <= y0 < y1 <= row["height"]
        assert row["detected_label"] in row["prompt"]
        assert THRESHOLDS[model] < row["detector_score"] <= 1
        assert row["box"] is None
        assert row["signals"]["box_agreement"] is not None


def test_nothing_found_fails_and_can_be_retried(
    tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, settings: dict[str, Any]
) -> None:
    settings["recipe.detector"]["threshold"] = IMPOSSIBLE
    photos = make_photos(tmp_path / "photos", 2)
    rows = [{"item_id": "a", "image_uri": photos[0], "label": "cup"}, {"item_id": "b", "image_uri": photos[1], "label": "auto"}]
    manifest = write(tmp_path / "manifest.csv", rows)
    arguments = {"output": tmp_path / "out", "preset": fake_preset, "settings": settings}
    assert run(manifest, **arguments).failed == 1
    failed = index(tmp_path / "out")["a"]
    assert (failed["status"], failed["error_code"], failed["prompt"]) == ("failed", "prompt", ["cup"])
    assert "no 'cup' was found" in failed["error_detail"]
    assert failed["detected_box"] is None
    rows[0]["label"] = "auto"
    write(tmp_path / "manifest.csv", rows)
    again = run(manifest, **arguments, retry="prompt")
    assert (again.failed, again.ok + again.review) == (0, 1)
    assert index(tmp_path / "out")["a"]["status"] != "failed"


def test_changed_labels_are_changes(
    tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, settings: dict[str, Any]
) -> None:
    rows = rows_of(make_photos(tmp_path / "photos", 2))[:2]
    manifest = write(tmp_path / "manifest.csv", rows)
    arguments = {"output": tmp_path / "out", "preset": fake_preset, "settings": settings, "changed": True}
    run(manifest, **arguments)
    again = run(manifest, **arguments)
    assert again.ok + again.review == 0
    write(tmp_path / "manifest.csv", [rows[0] | {"label": "lamp"}, rows[1]])
    again = run(manifest, **arguments)
    assert again.ok + again.review == 1
    assert index(tmp_path / "out")["name"]["prompt"] == ["lamp"]


def test_without_a_detector_labels_are_carried_as_they_are(
    tmp_path: Path, make_photos: Callable[..., list[Path]], fake_preset: str, logged: list[logging.LogRecord]
) -> None:
    manifest = write(tmp_path / "manifest.csv", rows_of(make_photos(tmp_path / "photos", 2)))
    run(manifest, tmp_path / "out", preset=fake_preset)
    assert [one.getMessage() for one in logged if one.levelno >= logging.WARNING] == [
        "the manifest's column 'label' is not used to find objects, because no detector is set; add --set "
        "recipe.detector=nanodet or another detector, or --label-column '' if it has no names of objects"
    ]
    rows = index(tmp_path / "out")
    assert rows["name"]["label"] == "Übertopf"
    assert all(row["prompt"] is None and row["status"] != "failed" for row in rows.values())


def test_numbers_are_no_names_and_another_column_may_have_them(
    tmp_path: Path,
    make_photos: Callable[..., list[Path]],
    fake_preset: str,
    settings: dict[str, Any],
    logged: list[logging.LogRecord],
) -> None:
    uris = [str(path) for path in make_photos(tmp_path / "photos", 1)]
    pq.write_table(pa.table({"image_uri": uris, "label": [3], "kind": ["plant"]}), tmp_path / "manifest.parquet")
    manifest = tmp_path / "manifest.parquet"
    assert run(manifest, tmp_path / "out", preset=fake_preset, label="cup", settings=settings).failed == 0
    assert [row["prompt"] for row in index(tmp_path / "out").values()] == [["cup"]]
    said = [one.getMessage() for one in logged if one.levelno >= logging.WARNING]
    assert len(said) == 1 and said[0].startswith("the manifest's column 'label' has numbers, not names of objects")
    logged.clear()
    run(manifest, tmp_path / "kind", preset=fake_preset, settings=settings | {"columns.label": "kind"})
    (row,) = index(tmp_path / "kind").values()
    assert (row["prompt"], row["label"], row["manifest_label"]) == (["plant"], "plant", 3)
    run(manifest, tmp_path / "none", preset=fake_preset, label="cup", settings=settings | {"columns.label": ""})
    assert [row["prompt"] for row in index(tmp_path / "none").values()] == [["cup"]]
    assert not [one for one in logged if one.levelno >= logging.WARNING]


def test_a_lower_threshold_does_only_the_items_again_in_which_nothing_was_found(tmp_path: Path, fake_preset: str) -> None:
    cat = str(EXAMPLES / "cat.jpg")
    rows = [{"item_id": name, "image_uri": cat, "label": name} for name in ("cat", "dog", "zebra")]
    manifest = write(tmp_path / "manifest.csv", rows)

    def go(threshold: float, retry: str = "", **detector: Any) -> Any:
        chosen = {"preset": "nanodet", "threshold": threshold} | detector
        settings = {"recipe.detector": chosen, "budget.allowed_failed": 9, "storage.allow_roots": [str(EXAMPLES)]}
        record = run(manifest, tmp_path / "out", preset=fake_preset, settings=settings, retry=retry)
        return record, index(tmp_path / "out")

    first, before = go(0.5)
    assert (first.ok + first.review, first.failed) == (1, 2)
    with pytest.raises(ConfigError, match=r"recipe\.detector .*, or --retry prompt to process only those"):
        go(0.35)
    again, after = go(0.35, "prompt")
    assert (again.done_before, again.ok + again.review, again.failed) == (1, 1, 1)
    assert after["cat"] == before["cat"] | {"recipe": after["dog"]["recipe"]} != before["cat"]
    assert after["dog"]["detected_label"] == "dog" and after["zebra"]["error_code"] == "prompt"
    nothing, same = go(0.35)
    assert (nothing.done_before, nothing.ok + nothing.review) == (3, 0) and same == after
    salient, last = go(0.35, "prompt", missing="salient")
    assert (salient.done_before, salient.failed) == (2, 0) and last["zebra"]["status"] != "failed"
    for threshold, changes in ((0.5, {"missing": "salient"}), (0.35, {}), (0.2, {"missing": "salient", "many": "union"})):
        with pytest.raises(ConfigError, match=r"have other settings: recipe\.detector .*process the items again$"):
            go(threshold, "prompt", **changes)
