"""Evaluations in a process and on real Ray, with a fake model: one row per item, whatever its ground truth is."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.job import Destination, Job, Limits, load_job
from pipeline.errors import ConfigError
from pipeline.evaluate.driver import EvaluateOptions, evaluate
from pipeline.evaluate.measure import MeasureContext, measure_batch
from pipeline.evaluate.schema import EVALUATION, INDEX_COLUMNS
from pipeline.evaluate.tables import tables
from pipeline.output.output import Output
from pipeline.quality.metrics import CURVES, METRICS, measure
from pipeline.run.crash_ledger import MAX_CRASHES, InMemoryLedger
from pipeline.run.driver import run_job
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files

pytest.importorskip("py_sod_metrics")
pytestmark = pytest.mark.usefixtures("few_resamples")
MakePhotos = Callable[..., list[Path]]
OUTPUT = Output.at(str(Path(__file__).parent), Files())


def png(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


def ground_truth_of(photo: Path) -> np.ndarray:
    """Return the bright ellipse of a generated photo, by its brightness."""
    grey = np.asarray(Image.open(photo).convert("L")).astype(float)
    return ((grey > 120) * 255).astype(np.uint8)


@pytest.fixture
def labelled(tmp_path: Path, make_photos: MakePhotos) -> Path:
    """A manifest of twelve photos with ground truth, of which some cannot be used."""
    photos = make_photos(tmp_path / "set" / "photos", 12)
    (tmp_path / "set" / "masks").mkdir()
    (tmp_path / "elsewhere").mkdir()
    rows: list[dict[str, Any]] = []
    for number, photo in enumerate(photos):
        (tmp_path / "set" / "masks" / f"{photo.stem}.png").write_bytes(png(ground_truth_of(photo)))
        rows.append(
            {"image_uri": f"photos/{photo.name}", "truth_uri": f"masks/{photo.stem}.png", "kind": ["odd", "even"][number % 2]}
        )
    masks = tmp_path / "set" / "masks"
    rows[0]["kind"] = "even; border ;large;"
    rows[1]["truth_uri"] = "masks/nowhere.png"
    rows[2]["truth_uri"] = None
    (tmp_path / "elsewhere" / "mask.png").write_bytes(png(ground_truth_of(photos[3])))
    rows[3]["truth_uri"] = str(tmp_path / "elsewhere" / "mask.png")
    (masks / photos[4].with_suffix(".png").name).write_bytes(png(np.zeros((5, 7), np.uint8)))
    (masks / photos[5].with_suffix(".png").name).write_bytes(b"no image")
    (masks / photos[6].with_suffix(".png").name).write_bytes(photos[6].read_bytes()[:-200])
    (masks / "link.png").symlink_to(tmp_path / "elsewhere" / "mask.png")
    rows[7]["truth_uri"] = "masks/link.png"
    rows[8]["image_uri"] = "photos/missing.jpg"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "manifest.parquet")
    return tmp_path / "set" / "manifest.parquet"


def job_of(manifest: Path, fake_preset: str, *pairs: str) -> Job:
    output = str(manifest.parent.parent / "out")
    return load_job(manifest=str(manifest), output=output, preset=fake_preset, overrides=["budget.max_failed_share=1", *pairs])


def rows_of(manifest: Path) -> dict[str, dict[str, Any]]:
    (folder,) = (manifest.parent.parent / "out").glob("*/_matteline/evaluation")
    table = ds.dataset(folder, format="parquet").to_table()
    assert table.schema.names == EVALUATION.names
    rows = {Path(row["item_id"]).stem: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


@pytest.mark.parametrize("where", ["process", "ray"])
def test_every_item_ends_as_one_row(
    request: pytest.FixtureRequest, labelled: Path, fake_preset: str, tmp_path: Path, where: str
) -> None:
    job = job_of(labelled, fake_preset)
    if where == "ray":
        run_job(job.model_copy(update={"output": Destination(uri=str(tmp_path / "out" / "fake"))}))  # not what is tested
        request.getfixturevalue("ray_session")
        job = job_of(labelled, fake_preset, "compute.local_items=0")
    (summary,) = evaluate([job], EvaluateOptions(tags="kind"))
    rows = rows_of(labelled)
    assert len(rows) == 12
    failed = {stem: row["error_code"] for stem, row in rows.items() if row["error_code"]}
    assert failed == {f"photo-00{number}": "truth" for number in range(1, 8)} | {"missing": "fetch"}
    for stem, words in {
        "photo-001": "the ground truth cannot be read: ",
        "photo-002": "truth_uri is empty; give a path or URI",
        "photo-003": "lies outside the allowed roots",
        "photo-004": "is 7 x 5 pixels, its image",
        "photo-005": "cannot be used",
        "photo-006": "cannot be used",
        "photo-007": "leads through symbolic links to",
    }.items():
        assert words in rows[stem]["error_detail"]
    assert (summary.items, summary.failed, summary.unreadable, summary.overall.items) == (12, 1, 7, 4)
    assert {code: count for code, (count, _) in summary.errors.items()} == {"truth": 7, "fetch": 1}

    output = labelled.parent.parent / "out" / "fake"
    for stem in ("photo-000", "photo-009", "photo-010", "photo-011"):
        row = rows[stem]
        truth = np.asarray(Image.open(labelled.parent / "masks" / f"{stem}.png"))
        wanted = measure(np.asarray(Image.open(output / row["mask_path"])), truth)
        assert {name: row[name] for name in wanted.values} == wanted.values
        for name, curve in wanted.curves.items():
            np.testing.assert_allclose(row[name], curve, atol=1e-6)
        assert row["dice_binary"] > 0.7
        assert row["hce"] is None
        assert 0 <= row["quality"] <= 1
    for stem in failed:
        assert all(rows[stem][metric.name] is None for metric in METRICS)
        assert all(rows[stem][name] is None for name in CURVES)
    assert rows["photo-000"]["tags"] == ["even", "large"], "the ground truth decides about border, not the manifest"


def test_the_numbers_are_written_as_markdown_and_json(labelled: Path, fake_preset: str) -> None:
    (summary,) = evaluate([job_of(labelled, fake_preset)], EvaluateOptions(tags="kind", hce=True))
    out = labelled.parent.parent / "out"
    facts = json.loads((out / "evaluation.json").read_text())
    (model,) = facts["models"]
    rows = [row for row in rows_of(labelled).values() if row["error_code"] is None]
    assert model["measured"] == len(rows) == 4
    for name in ("mae", "s_measure", "e_mean", "dice_binary", "boundary_iou", "hce"):
        assert model["metrics"][name]["value"] == pytest.approx(np.mean([row[name] for row in rows])), name
        assert model["metrics"][name]["low"] <= model["metrics"][name]["value"] <= model["metrics"][name]["high"]
    curve = np.mean([row["f_curve"] for row in rows], 0)
    assert model["metrics"]["f_max"]["value"] == pytest.approx(curve.max(), abs=1e-6)
    assert set(model["tags"]) >= {"even", "odd", "large"}
    assert sum(model["tags"][kind]["measured"] for kind in ("even", "odd")) == 4
    assert set(model["rankings"]) >= {"quality", "soft_dice"}
    assert model["quality_calibrated"] is False
    text = (out / "evaluation.md").read_text()
    for title, heads, _ in tables([summary]):
        assert f"## {title}" in text
        assert len(heads) >= 2
    for metric in METRICS:
        assert f"* **{metric.title}** " in text


def test_a_second_evaluation_reuses_masks_and_replaces_rows(labelled: Path, fake_preset: str, tmp_path: Path) -> None:
    first, second = job_of(labelled, fake_preset), job_of(labelled, fake_preset, "recipe.refiner=none", "recipe.name=bare")
    evaluate([first], EvaluateOptions())
    masks = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("masks/**/*.png")}
    shorter = pq.read_table(labelled).slice(0, 10)
    pq.write_table(shorter, labelled)
    summaries = evaluate([first, second], EvaluateOptions())
    assert [(one.model, one.items) for one in summaries] == [("fake", 10), ("bare", 10)]
    assert {path: path.stat().st_mtime_ns for path in masks} == masks
    for folder in (tmp_path / "out").glob("*/_matteline/evaluation"):
        assert ds.dataset(folder, format="parquet").to_table().num_rows == 10
    comparison = tables(summaries)[0]
    assert [row[0] for row in comparison[2]] == ["fake", "bare"]
    assert summaries[0].difference is None
    title, header, rows = next(table for table in tables(summaries) if table[0].startswith("Difference"))
    assert (title, header) == ("Difference from fake", ["metric", "bare"])
    assert rows[0][0] == "MAE (lower is better)" and rows[0][1][0] in "+-"
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())["models"]
    own = [one["metrics"]["mae"]["value"] for one in facts]
    assert facts[0]["difference_from_first"] is None
    assert facts[1]["difference_from_first"]["metrics"]["mae"]["value"] == pytest.approx(own[1] - own[0])
    assert (tmp_path / "out" / "evaluation.md").read_text().count("| fake |") >= 1


def test_recipes_of_one_name_get_different_names_in_the_tables(labelled: Path, fake_preset: str) -> None:
    jobs = [job_of(labelled, fake_preset), job_of(labelled, fake_preset, "recipe.refiner=none")]
    one, other = evaluate(jobs, EvaluateOptions())
    assert (one.model, other.model) == ("fake", "fake-2")
    assert {path.parent.name for path in (labelled.parent.parent / "out").glob("*/index")} == {"fake", "fake-2"}


def test_wrong_columns_and_recipes_are_refused_before_work(labelled: Path, fake_preset: str, tmp_path: Path) -> None:
    job = job_of(labelled, fake_preset)
    with pytest.raises(ConfigError, match=r"no column 'mask'; --truth names one of its further columns: truth_uri, kind"):
        evaluate([job], EvaluateOptions(truth="mask"))
    with pytest.raises(ConfigError, match="no column 'colour'; --tags names"):
        evaluate([job], EvaluateOptions(tags="colour"))
    with pytest.raises(ConfigError, match="writes no masks to evaluate"):
        evaluate([job_of(labelled, fake_preset, "recipe.outputs=[cutout]")], EvaluateOptions())
    folder = load_job(manifest=str(labelled.parent / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    with pytest.raises(ConfigError, match="none besides those of every manifest"):
        evaluate([folder], EvaluateOptions())
    pq.write_table(pa.table({"image_uri": ["photos/photo-000.jpg"], "truth_uri": [7]}), labelled)
    with pytest.raises(ConfigError, match="'truth_uri' holds int64; it must hold text"):
        evaluate([job], EvaluateOptions())
    assert not (tmp_path / "out").exists()


def test_a_missing_mask_is_an_error_of_its_row(labelled: Path, fake_preset: str) -> None:
    job = job_of(labelled, fake_preset)
    evaluate([job], EvaluateOptions())
    output = labelled.parent.parent / "out" / "fake"
    (output / rows_of(labelled)["photo-009"]["mask_path"]).unlink()
    (output / rows_of(labelled)["photo-010"]["mask_path"]).write_bytes(b"")
    (summary,) = evaluate([job], EvaluateOptions())
    rows = rows_of(labelled)
    for stem in ("photo-009", "photo-010"):
        assert rows[stem]["error_code"] == "mask"
        assert "run matteline verify --repair" in rows[stem]["error_detail"]
    assert summary.overall.items == 2


def test_without_any_ground_truth_there_are_rows_but_no_numbers(labelled: Path, fake_preset: str) -> None:
    pq.write_table(pq.read_table(labelled).slice(1, 7), labelled)
    (summary,) = evaluate([job_of(labelled, fake_preset)], EvaluateOptions())
    assert (summary.items, summary.overall.items, summary.overall.metrics) == (7, 0, {})
    assert "| fake | 0 | 0 |" in (labelled.parent.parent / "out" / "evaluation.md").read_text()


def joined_row(truth_uri: str, **row: Any) -> pa.Table:
    """Return one row as ``ground_truth.join_index`` does."""
    fields = [EVALUATION.field(name) for name in (*INDEX_COLUMNS, "truth_uri", "tags")]
    rows = pa.Table.from_pylist([{"item_id": "a", "truth_uri": truth_uri, **row}], pa.schema(fields))
    return rows.append_column("truth_error", pa.nulls(1, pa.string()))


def test_failed_rows_pass_through_unchanged() -> None:
    rows = joined_row("/nowhere", status="failed", error_code="fetch", error_detail="gone", tags=["x"])
    (found,) = measure_batch(rows, context=MeasureContext(OUTPUT, AllowList(("/",)), Limits(), 1)).to_pylist()
    assert (found["error_code"], found["error_detail"], found["tags"]) == ("fetch", "gone", ["x"])


def test_an_item_that_crashed_too_often_is_given_up() -> None:
    ledger = InMemoryLedger()
    ledger.started["measure/a"] = MAX_CRASHES
    context = MeasureContext(OUTPUT, AllowList(("/",)), Limits(), 1, ledger=ledger)
    (found,) = measure_batch(joined_row(__file__, status="ok", mask_path=Path(__file__).name), context=context).to_pylist()
    assert found["error_code"] == "crash"
    assert not ledger.started
