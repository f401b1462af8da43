"""What was accepted, and which rows of a later night are held against it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.main import app
from pipeline.config.job import Drift, load_job
from pipeline.errors import ConfigError, ErrorBudgetExceeded
from pipeline.output.baseline import baseline, drift, last_accepted
from pipeline.output.index import write_part
from pipeline.output.layout import Layout
from pipeline.review.accept import accept
from pipeline.review.reviews import draw_sample, import_reviews
from pipeline.run.driver import run_job
from pipeline.schema import INDEX
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]
FILES = Files()


def night(layout: Layout, run_id: str, count: int, *, high: float = 8.0, exit_code: int | None = 0) -> None:
    """Rows of one run, and its record; None leaves none, as a killed driver does."""
    qualities = np.random.default_rng(len(run_id)).beta(high, 2, count).tolist()
    rows = [
        {"item_id": f"{run_id}-{number}", "status": "ok", "quality": quality, "run_id": run_id, "reasons": []}
        for number, quality in enumerate(qualities)
    ]
    write_part(layout, pa.Table.from_pylist(rows, INDEX), FILES)
    if exit_code is not None:
        FILES.write(layout.run(run_id), json.dumps({"run_id": run_id, "exit_code": exit_code}).encode())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path / "out"), "fake-0")
    FILES.write(layout.recipe, b"{}")
    night(layout, "20260101T000000Z-a", 2000)
    return layout


def test_a_worse_night_is_held_against_the_accepted_one(layout: Layout) -> None:
    made = accept(layout, FILES)
    assert (made.lot.items, made.run_id) == (2000, "20260101T000000Z-a")
    assert last_accepted(layout.root, FILES) == last_accepted(layout.folder, FILES) == made
    night(layout, "20260102T000000Z-b", 500)
    night(layout, "20260103T000000Z-c", 300, high=3.0, exit_code=4)
    night(layout, "20260103T010000Z-d", 200, high=3.0, exit_code=None)
    found = drift(made, layout, FILES, Drift())
    assert found["items"] == 500, "a night that was stopped, killed and continued is one night; the one before isn't in it"
    assert found["drifted"] and found["shifts"]["quality"]["drifted"] and not found["shifts"]["failed"]["drifted"]
    assert "distribution of quality" in found["said"] and "failed" not in found["said"]
    json.dumps(found, allow_nan=False)


def test_what_was_accepted_is_no_news_and_a_like_night_no_drift(layout: Layout) -> None:
    night(layout, "20260102T000000Z-b", 500, high=3.0, exit_code=3)
    made = accept(layout, FILES)
    assert drift(made, layout, FILES, Drift())["items"] == 0
    other = Layout(layout.root + "-2", "fake-1")
    night(other, "20251231T000000Z-z", 2500, exit_code=None)
    found = drift(accept(layout, FILES), other, FILES, Drift(quality=0.3))
    assert found["items"] == 2500 and not found["drifted"] and found["said"] == ""


def test_the_latest_acceptance_of_an_output_counts(layout: Layout, tmp_path: Path) -> None:
    assert baseline(Drift(), layout.root, FILES) is None
    with pytest.raises(ConfigError, match="nothing was accepted in .*; look through it, then: matteline review accept"):
        baseline(Drift(accepted=str(tmp_path / "nowhere.json")), layout.root, FILES)
    kept = str(tmp_path / "accepted.json")
    first, second = accept(layout, FILES), accept(layout, FILES, kept)
    assert baseline(Drift(), layout.root, FILES) == first
    assert baseline(Drift(accepted=kept), layout.root, FILES) == second
    other = Layout(layout.root, "fake-1")
    FILES.write(other.recipe, b"{}")
    night(other, "20260102T000000Z-b", 5)
    later = json.loads(Path(kept).read_text()) | {"folder": other.folder, "accepted_at": "2999-01-01T00:00:00+00:00"}
    FILES.write(f"{other.reviews}/accepted.json", json.dumps(later).encode())
    found = last_accepted(layout.root, FILES)
    assert found is not None and found.folder == other.folder


@pytest.mark.parametrize("text", ["", "[]", '{"lot": 3}', '{"folder": "", "run_id": "", "accepted_at": "", "lot": {}}'])
def test_what_says_nothing_is_refused(layout: Layout, text: str) -> None:
    FILES.write(f"{layout.reviews}/accepted.json", text.encode())
    with pytest.raises(ConfigError, match="doesn't say what was accepted"):
        baseline(Drift(), layout.root, FILES)


def test_a_sample_that_was_drawn_must_be_accepted_first(layout: Layout) -> None:
    draw_sample(layout, FILES, {"at_most": 0.1, "confidence": 0.9, "allowed": 0}, seed=1, lot=2000)
    with pytest.raises(ConfigError, match="isn't accepted .*open: judge the rest"):
        accept(layout, FILES)
    ids = json.loads(Path(layout.reviews, "sample.json").read_text())["ids"]
    import_reviews("item_id,verdict\n" + "".join(f"{item_id},accept\n" for item_id in ids), layout, FILES)
    assert accept(layout, FILES).lot.items == 2000
    night(layout, "20260102T000000Z-b", 5)
    with pytest.raises(ConfigError, match="drawn of 2000 items, and 5 have come since; draw another"):
        accept(layout, FILES)
    with pytest.raises(ConfigError, match="has no items to accept"):
        accept(Layout(layout.root, "empty"), FILES)


def test_a_nightly_run_warns_and_ends_as_it_would(
    ray_session: None, tmp_path: Path, make_photos: MakePhotos, fake_preset: str
) -> None:
    make_photos(tmp_path / "photos", 24)
    job = load_job(manifest=str(tmp_path / "photos"), output=str(tmp_path / "out"), preset=fake_preset)
    _, record = run_job(job)
    assert record.drift is None
    said = CliRunner().invoke(app, ["review", "accept", str(tmp_path / "out")])
    assert said.exit_code == 0 and "accepted: 24 items" in said.output
    for number in range(24):
        (tmp_path / "photos" / f"broken-{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(ErrorBudgetExceeded):
        run_job(job)
    (written,) = (
        json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/runs/*.json") if record.run_id not in path.name
    )
    assert written["exit_code"] == 3
    assert written["drift"]["drifted"] and written["drift"]["shifts"]["failed"]["now"] == 1
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "out")])
    assert "drift    the share of failed by at least" in shown.output
