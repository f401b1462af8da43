"""A detection that goes on after its manifest, its threshold or its process has changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from pipeline.config.job import load_job
from pipeline.detect.driver import RESULT, Summary, detect
from pipeline.detect.parts import PARTS, results
from pipeline.errors import ConfigError, Stopped, StorageError
from pipeline.output.output import Output
from pipeline.paths import EXAMPLES
from pipeline.storage.files import Files

CAT, OSPREY = (str(EXAMPLES / f"{name}.jpg") for name in ("cat", "osprey"))
INJECT = Path(__file__).resolve().parents[1] / "faults" / "inject"
Detect = Callable[..., Summary]


@pytest.fixture
def find(tmp_path: Path) -> Detect:
    """``find(rows, **detector)`` finds boxes with the bundled detector; ``settings`` are further ones of the job."""

    def make(
        rows: list[dict[str, Any]], retry: tuple[str, ...] = (), settings: dict[str, Any] | None = None, **detector: Any
    ) -> Summary:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
        overrides = {"recipe.detector": {"preset": "nanodet"} | detector, "storage.allow_roots": [str(EXAMPLES)]}
        overrides |= {"compute.device": "cpu", "run.retry": retry} | (settings or {})
        job = load_job(manifest=str(tmp_path / "manifest.parquet"), output="unused", overrides=overrides)
        return detect(job, str(tmp_path / "boxes.parquet"))

    return make


def boxes(tmp_path: Path) -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / "boxes.parquet").to_pylist()


def parts(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "boxes.parquet.work" / "parts").iterdir()}


def test_changed_rows_are_found_again_and_others_are_not(find: Detect, tmp_path: Path) -> None:
    cat = {"item_id": "b", "image_uri": CAT, "label": "cat", "sku": "1"}
    find([{"item_id": "a", "image_uri": CAT, "label": "cat", "sku": "1"}])
    before = parts(tmp_path)
    find([{"item_id": "a", "image_uri": CAT, "label": "cat", "sku": "2", "price": 3}])
    assert parts(tmp_path) == before
    assert [(row["sku"], row["price"]) for row in boxes(tmp_path)] == [("2", 3)]
    find([cat, {"item_id": "a", "image_uri": OSPREY, "label": "bird", "sku": "2"}])
    assert [(row["item_id"][0], row["box_label"]) for row in boxes(tmp_path)][:2] == [("b", "cat"), ("a", "bird")]
    assert {row["image_uri"] for row in boxes(tmp_path) if row["item_id"][0] == "a"} == {OSPREY}
    find([cat | {"box": None}, {"item_id": "a", "image_uri": OSPREY, "label": "bird", "box": [1.0, 2.0, 30.0, 40.0]}])
    assert [row["box"] for row in boxes(tmp_path) if row["item_id"][0] == "a"] == [[1.0, 2.0, 30.0, 40.0]]


def test_a_lower_threshold_with_retry_prompt(find: Detect, tmp_path: Path) -> None:
    rows = [{"item_id": "cat", "image_uri": CAT, "label": "cat"}, {"item_id": "dog", "image_uri": CAT, "label": "dog"}]
    assert find(rows, threshold=0.5).failures == {"prompt": 1}
    found = boxes(tmp_path)
    with pytest.raises(ConfigError, match=r"begun with another detector \(threshold\); add --retry prompt, delete"):
        find(rows, threshold=0.05)
    assert find(rows, threshold=0.05, retry=("prompt",)).failures == {}
    assert boxes(tmp_path)[: len(found)] == found
    assert find(rows, threshold=0.05).failures == {}
    with pytest.raises(ConfigError, match=r"begun with another detector \(threshold\); delete"):
        find(rows, threshold=0.5, retry=("prompt",))
    with pytest.raises(ConfigError, match=r"begun with another detector \(max_boxes, threshold\)|\(threshold, max_boxes\)"):
        find(rows, threshold=0.04, max_boxes=3, retry=("prompt",))


@pytest.mark.parametrize("damage", ["missing", "text"])
@pytest.mark.parametrize("retry", [(), ("prompt",)])
def test_damaged_settings_of_an_earlier_detection(find: Detect, tmp_path: Path, damage: str, retry: tuple[str, ...]) -> None:
    rows = [{"item_id": "cat", "image_uri": CAT, "label": "cat"}]
    find(rows)
    path = tmp_path / "boxes.parquet.work" / "detector.json"
    before = json.loads(path.read_bytes())
    del before["threshold"]
    path.write_text(json.dumps(before | ({"threshold": "high"} if damage == "text" else {})))
    with pytest.raises(StorageError, match=r"detector\.json can't be read; delete the folder"):
        find(rows, retry=retry)


def test_a_manifest_that_names_nothing_is_refused(find: Detect, tmp_path: Path) -> None:
    for row in ({"item_id": "a", "image_uri": CAT}, {"item_id": "a", "image_uri": CAT, "label": 3}):
        with pytest.raises(ConfigError, match=r"no column label or labels with names; add --label NAME, or --set recipe\.det"):
            find([row])
    with pytest.raises(ConfigError, match="nothing says what to find"):
        find([{"item_id": "a", "image_uri": CAT}], label=["auto"])
    assert not (tmp_path / "boxes.parquet").exists()


def test_videos_stay_as_they_are(find: Detect, tmp_path: Path) -> None:
    """A run looks for the name in the video."""
    rows = [{"item_id": name, "image_uri": CAT, "label": "cat"} for name in ("a", "b", "c")]
    rows[1]["image_uri"] = str(tmp_path / "clip.mp4")
    summary = find(rows)
    assert (summary.items, summary.failures) == (3, {})
    found = boxes(tmp_path)
    assert [row["item_id"] for row in found if not row["item_id"].endswith(("#1", "#2"))] == ["a#0", "b", "c#0"]
    (video,) = (row for row in found if row["item_id"] == "b")
    assert (video["image_uri"], video["box"], video["label"]) == (rows[1]["image_uri"], None, "cat")
    assert find(rows) == summary and boxes(tmp_path) == found


def test_boxes_of_an_earlier_detection_keep_their_score_and_label(find: Detect, tmp_path: Path) -> None:
    box = {"item_id": "a#0", "image_uri": CAT, "label": "cat", "box": [1.0, 2.0, 30.0, 40.0]}
    find([box | {"box_score": 0.75, "box_label": "cat"}, {"item_id": "b", "image_uri": CAT, "label": "cat"}])
    kept, found = boxes(tmp_path)
    assert (kept["box"], kept["box_score"], kept["box_label"]) == ([1, 2, 30, 40], 0.75, "cat")
    assert (found["item_id"], found["box_label"]) == ("b#0", "cat") and 0 < found["box_score"] < 1
    find([box | {"box_score": "high", "box_label": 7}])
    assert [(row["box_score"], row["box_label"]) for row in boxes(tmp_path)] == [(None, "7")]


def test_after_the_deadline_nothing_is_begun(find: Detect, tmp_path: Path) -> None:
    rows = [{"item_id": "cat", "image_uri": CAT, "label": "cat"}, {"item_id": "dog", "image_uri": CAT, "label": "dog"}]
    with pytest.raises(Stopped, match="the deadline passed with 2 items left; run the same command again"):
        find(rows, threshold=0.5, settings={"budget.deadline_s": 0.01})
    assert not (tmp_path / "boxes.parquet").exists()
    assert find(rows, threshold=0.5).failures == {"prompt": 1}
    with pytest.raises(Stopped, match="the deadline passed with 1 items left"):
        find(rows, threshold=0.5, retry=("prompt",), settings={"budget.deadline_s": 0.01})


@pytest.mark.parametrize(("first", "second"), [("part-0", "part-1"), ("part-1", "part-0")])
def test_of_several_results_of_a_request_the_newest_counts(tmp_path: Path, first: str, second: str) -> None:
    """A retry in another batch writes another part."""
    output, folder = Output.at(str(tmp_path / "work"), Files()), tmp_path / "work" / PARTS
    folder.mkdir(parents=True)
    for age_s, name, code in ((100, first, "fetch"), (10, second, "decode")):
        rows = [{"request": b"0123456789abcdef", "found": None, "error_code": code, "error_detail": f"of {name}"}]
        pq.write_table(pa.Table.from_pylist(rows, RESULT), folder / f"{name}.parquet")
        os.utime(folder / f"{name}.parquet", (time.time() - age_s,) * 2)
    failures = results(output, RESULT).failures_of(np.array([b"0123456789abcdef"], "S16"))
    assert failures["error_code"].to_pylist() == ["decode"]


def test_two_items_of_one_id_are_refused(find: Detect) -> None:
    rows = [{"item_id": name, "image_uri": CAT, "label": "cat"} for name in ("a", "a#0")]
    rows[1]["label"] = "auto"
    with pytest.raises(ConfigError, match="a box of the item 'a' would have the id 'a#0'"):
        find(rows)
    rows[1]["item_id"] = "a#x"
    find(rows)


def test_columns_with_other_names(find: Detect, tmp_path: Path) -> None:
    columns = {"columns.image": "url", "columns.id": "sku", "columns.label": "kind"}
    find([{"sku": "A", "url": CAT, "kind": "cat", "label": 7}], settings=columns)
    assert [(row["item_id"], row["image_uri"], row["box_label"]) for row in boxes(tmp_path)] == [("A#0", CAT, "cat")]


def test_a_column_of_numbers_has_no_names(find: Detect, tmp_path: Path) -> None:
    find([{"item_id": "a", "image_uri": CAT, "label": 3, "labels": [3, 4]}], label=["cat"])
    assert [row["box_label"] for row in boxes(tmp_path)] == ["cat"]


def test_an_item_that_ends_its_process_fails_alone(
    find: Detect,
    tmp_path: Path,
    make_photos: Callable[..., list[Path]],
    fake_preset: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uris = make_photos(tmp_path / "photos", 3)
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "the marked picture")
    Image.new("RGB", (120, 90), (255, 0, 255)).save(tmp_path / "photos" / "mark.png", pnginfo=note)
    rows = [{"item_id": path.stem, "image_uri": str(path)} for path in [uris[0], tmp_path / "photos" / "mark.png", *uris[1:]]]
    with monkeypatch.context() as patch:
        patch.setenv("FAULTS", json.dumps({"marked": "exit", "where": "segment"}))
        patch.setenv("PYTHONPATH", f"{INJECT}:{Path(__file__).resolve().parents[2]}")
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "manifest.parquet")
        overrides = {"recipe.detector": {"preset": "nanodet", "many": "each"}, "compute.device": "cpu"}
        job = load_job(manifest=str(tmp_path / "manifest.parquet"), output="unused", preset=fake_preset, overrides=overrides)
        summary = detect(job, str(tmp_path / "boxes.parquet"))
    assert (summary.items, summary.failures) == (4, {"crash": 1})
    assert {row["item_id"].partition("#")[0] for row in boxes(tmp_path)} == {path.stem for path in uris}
    before = parts(tmp_path)
    for part in sorted(before)[:1]:  # as after a kill before it was written
        (tmp_path / "boxes.parquet.work" / "parts" / part).unlink()
    again = detect(job.with_run(retry=("crash",)), str(tmp_path / "boxes.parquet"))
    assert again.items == 4 and again.failed == 1  # the picture is without an object: magenta everywhere
    assert "no salient object" in again.examples["prompt"]
