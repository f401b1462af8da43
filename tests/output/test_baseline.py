"""Accepted baselines, and the rows of later runs that are compared with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.main import app
from pipeline.config.job import Drift, load_job
from pipeline.errors import ConfigError, ErrorBudgetExceeded
from pipeline.output.baseline import baseline, drift, last_accepted
from pipeline.output.index import write_part
from pipeline.output.output import Output
from pipeline.output.run_record import RunRecord
from pipeline.output.settings import write_settings
from pipeline.review.accept import accept
from pipeline.review.reviews import draw_sample, import_reviews
from pipeline.run.driver import run_job
from pipeline.schema import INDEX
from pipeline.storage.files import Files
from pipeline.storage.uris import parent

MakePhotos = Callable[..., list[Path]]
FILES = Files()


def write_run(output: Output, run_id: str, count: int, *, high: float = 8.0, exit_code: int | None = 0) -> None:
    """Write the rows of one run, and its record unless ``exit_code`` is None, as for a killed driver."""
    qualities = np.random.default_rng(len(run_id)).beta(high, 2, count).tolist()
    rows = [
        {"item_id": name, "output_name": name, "status": "ok", "quality": quality, "run_id": run_id, "reasons": []}
        for name, quality in ((f"{run_id}-{number}", quality) for number, quality in enumerate(qualities))
    ]
    write_part(output, pa.Table.from_pylist(rows, INDEX))
    if exit_code is not None:
        record = RunRecord(run_id, "m.csv", "0" * 64, "fake", count, 0)
        record.close(exit_code)
        record.write(output)


@pytest.fixture
def output(tmp_path: Path, fake_settings: dict[str, Any]) -> Output:
    output = Output.at(str(tmp_path / "out" / "fake-0"), FILES)
    write_settings(output, fake_settings)
    write_run(output, "20260101T000000Z-a", 2000)
    return output


def test_a_worse_run_drifts_from_the_baseline(output: Output) -> None:
    made = accept(output)
    assert (made.distribution.items, made.run_id) == (2000, "20260101T000000Z-a")
    assert last_accepted(parent(output.folder), FILES) == last_accepted(output.folder, FILES) == made
    write_run(output, "20260102T000000Z-b", 500)
    write_run(output, "20260103T000000Z-c", 300, high=3.0, exit_code=4)
    write_run(output, "20260103T010000Z-d", 200, high=3.0, exit_code=None)
    found = drift(made, output, Drift())
    assert found["items"] == 500, (
        "a run that was stopped, killed and continued counts as one, and the run before it does not count"
    )
    assert found["drifted"] and found["shifts"]["quality"]["drifted"] and not found["shifts"]["failed"]["drifted"]
    assert "distribution of quality" in found["said"] and "failed" not in found["said"]
    json.dumps(found, allow_nan=False)


def test_accepted_items_and_similar_runs_do_not_drift(output: Output) -> None:
    write_run(output, "20260102T000000Z-b", 500, high=3.0, exit_code=3)
    made = accept(output)
    assert drift(made, output, Drift())["items"] == 0
    other = Output.at(f"{parent(output.folder)}-2/fake-1", FILES)
    write_run(other, "20251231T000000Z-z", 2500, exit_code=None)
    found = drift(accept(output), other, Drift(quality=0.3))
    assert found["items"] == 2500 and not found["drifted"] and found["said"] == ""


def test_the_latest_baseline_of_an_output_counts(output: Output, tmp_path: Path) -> None:
    assert baseline(Drift(), parent(output.folder), FILES) is None
    with pytest.raises(ConfigError, match="has no accepted baseline; review it, then run matteline review accept"):
        baseline(Drift(accepted=str(tmp_path / "nowhere.json")), parent(output.folder), FILES)
    kept = str(tmp_path / "accepted.json")
    first, second = accept(output), accept(output, kept)
    assert baseline(Drift(), parent(output.folder), FILES) == first
    assert baseline(Drift(accepted=kept), parent(output.folder), FILES) == second
    other = Output.at(f"{parent(output.folder)}/fake-1", FILES)
    FILES.write(other.layout.recipe, b"{}")
    write_run(other, "20260102T000000Z-b", 5)
    later = json.loads(Path(kept).read_text()) | {"folder": other.folder, "accepted_at": "2999-01-01T00:00:00+00:00"}
    FILES.write(f"{other.layout.reviews}/accepted.json", json.dumps(later).encode())
    found = last_accepted(parent(output.folder), FILES)
    assert found is not None and found.folder == other.folder


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 5000, '{"lot": 3}', '{"folder": "", "run_id": "", "accepted_at": "", "lot": {}}']
)
def test_a_file_that_is_no_baseline_is_refused(output: Output, text: str) -> None:
    FILES.write(f"{output.layout.reviews}/accepted.json", text.encode())
    with pytest.raises(ConfigError, match="is not a baseline"):
        baseline(Drift(), parent(output.folder), FILES)


def test_a_drawn_sample_must_be_accepted_first(output: Output) -> None:
    draw_sample(output, {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1, lot=2000)
    with pytest.raises(ConfigError, match="is not passed: open: checks .* of 2,000 items"):
        accept(output)
    ids = json.loads(Path(output.layout.reviews, "sample.json").read_text())["ids"]
    import_reviews("item_id,verdict\n" + "".join(f"{item_id},accept\n" for item_id in ids), output)
    assert accept(output).distribution.items == 2000
    write_run(output, "20260102T000000Z-b", 5)
    with pytest.raises(ConfigError, match="drawn from 2000 items, and the output has 2005 now; draw another"):
        accept(output)
    with pytest.raises(ConfigError, match="has no items to accept"):
        accept(Output.at(f"{parent(output.folder)}/empty", FILES))


def test_a_run_warns_of_drift_and_keeps_its_exit_code(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 24)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    _, record = run_job(job)
    assert record.drift is None
    done = CliRunner().invoke(app, ["review", "accept", str(tmp_path / "out")])
    assert done.exit_code == 0 and "accepted: 24 items" in done.output
    for number in range(24):
        (tmp_path / "photos" / f"broken-{number}.jpg").write_bytes(b"not an image")
    with pytest.raises(ErrorBudgetExceeded):
        run_job(job)
    (written,) = (
        json.loads(path.read_text())
        for path in (tmp_path / "out").glob("_matteline/runs/*.json")
        if record.run_id not in path.name
    )
    assert written["exit_code"] == 3
    assert written["drift"]["drifted"] and written["drift"]["shifts"]["failed"]["now"] == 1
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "out")])
    assert "drift    the share of failed by at least" in shown.output


def test_a_baseline_of_impossible_counts_is_refused(output: Output) -> None:
    FILES.write(f"{output.layout.reviews}/accepted.json", b"")
    facts: dict[str, Any] = {"folder": "", "run_id": "", "accepted_at": ""}
    facts["lot"] = {"counts": {"ok": 1, "review": 0, "failed": 0}, "histogram": [2**63] + [0] * 999}
    FILES.write(f"{output.layout.reviews}/accepted.json", json.dumps(facts).encode())
    with pytest.raises(ConfigError, match="is not a baseline .*lot.histogram.0"):
        last_accepted(output.folder, FILES)
