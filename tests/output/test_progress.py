"""The progress object is rewritten during a run, and never makes the run fail."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.job import load_job
from pipeline.errors import ErrorBudgetExceeded, WriteError
from pipeline.output.output import Output
from pipeline.output.progress import Progress
from pipeline.output.run_record import RunRecord
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]


@pytest.fixture
def record() -> RunRecord:
    return RunRecord("20261123T020000Z-000001", "m.csv", "0123", "mvanet-lite", 100, 10)


FOLDER = "/out"


class Recorder(Files):
    """Keep what is written, or refuse it."""

    def __init__(self, refuse: bool = False) -> None:
        super().__init__()
        object.__setattr__(self, "written", [])
        object.__setattr__(self, "thrice", threading.Event())
        object.__setattr__(self, "refuse", refuse)

    def write(self, uri: str, data: bytes) -> None:
        self.written.append(json.loads(data))
        if len(self.written) >= 3:
            self.thrice.set()
        if self.refuse:
            raise WriteError("no space left")


def test_it_is_written_before_the_first_item_and_ends_with_the_outcome(record: RunRecord) -> None:
    files = Recorder()
    with Progress(record, Output.at(FOLDER, files), owner="me", every_s=0.01) as progress:
        assert files.thrice.wait(60)
        record.ok, record.failed, record.items_per_s = 40, 5, 2.0
        record.close(3, "too many")
        progress.close()
    first, last = files.written[0], files.written[-1]
    assert (first["state"], first["exit_code"], first["items"], first["done_before"]) == ("running", None, 100, 10)
    assert (last["state"], last["exit_code"], last["error"]) == ("over the error budget", 3, "too many")
    assert (last["ok"], last["failed"], last["eta_s"], last["owner"]) == (40, 5, None, "me")
    assert [facts["state"] for facts in files.written].count("over the error budget") >= 1
    assert "running" not in [facts["state"] for facts in files.written[files.written.index(last) :]]


def test_failed_writes_are_logged_once(record: RunRecord, logged: list[logging.LogRecord]) -> None:
    files = Recorder(refuse=True)
    with Progress(record, Output.at(FOLDER, files), owner="me", every_s=0.01) as progress:
        assert files.thrice.wait(60)
        record.close(0)
        progress.close()
    assert ["progress cannot be written" in record.getMessage() for record in logged].count(True) == 1


def test_slow_storage_does_not_delay_the_metrics(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray drops a gauge that is not set for a while."""
    monkeypatch.setattr("pipeline.output.progress.BEAT_S", 0.01)
    free, thrice, beats = threading.Event(), threading.Event(), []

    class Slow(Files):
        def write(self, uri: str, data: bytes) -> None:
            assert free.wait(60)

    def beat(facts: dict[str, Any]) -> None:
        beats.append(facts["state"])
        if len(beats) >= 3:
            thrice.set()

    with Progress(record, Output.at(FOLDER, Slow()), owner="me", every_s=600, beat=beat) as progress:
        assert thrice.wait(60)
        free.set()
        record.close(0)
        progress.close()
    assert beats[0] == "running" and beats[-1] == "complete"


def test_the_time_left_follows_the_recent_speed(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.output.progress.time.monotonic", lambda: now)
    progress = Progress(record, Output.at(FOLDER, Files()), owner="me", every_s=30)
    assert progress.facts()["eta_s"] is None
    for step in range(1, 11):
        now, record.ok = 30.0 * step, min(8, step) * 6
        record.items_per_s = record.ok / now
        facts = progress.facts()
    # No item in the last minute, 12 in the one before.
    assert facts["recent_items_per_s"] == 0.1
    assert facts["items_per_s"] == 0.16
    assert facts["eta_s"] == 420


def test_the_time_left_with_videos_follows_the_recent_speed_of_frames(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.output.progress.time.monotonic", lambda: now)
    progress = Progress(record, Output.at(FOLDER, Files()), owner="me", every_s=30)
    progress.facts()
    record.items, record.done_before, record.videos_left = 3, 0, 3
    now = 30.0
    assert progress.facts()["eta_s"] is None, "no frame yet"
    record.frames, record.frames_left = 600, 29_400
    now = 60.0
    facts = progress.facts()
    assert (facts["recent_frames_per_s"], facts["eta_s"], facts["frames_left"]) == (10.0, 2940, 29_400)


def test_a_run_writes_its_final_state(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    where: dict[str, Any] = {"manifest": str(tmp_path / "photos"), "preset": fake_preset}
    settings = ["compute.progress_s=0.2", "budget.max_failed_share=0.5", "compute.rows_per_part=2"]
    plan, record = run_job(load_job(**where, output=str(tmp_path / "out"), overrides=settings))
    facts = json.loads(Path(plan.output.layout.progress(record.run_id)).read_text())
    assert (facts["state"], facts["exit_code"], facts["items"]) == ("complete", 0, 7)
    assert (facts["ok"] + facts["review"], facts["failed"], facts["failures"]["decode"]["count"]) == (6, 1, 1)
    assert facts["manifest"] == record.manifest and facts["dashboard"] is None and facts["every_s"] == 0.2

    with pytest.raises(ErrorBudgetExceeded):
        run_job(
            load_job(
                **where, output=str(tmp_path / "strict"), overrides=["budget.max_failed_share=0.1", "budget.allowed_failed=0"]
            )
        )
    (path,) = (tmp_path / "strict").glob("_matteline/progress/*.json")
    facts = json.loads(path.read_text())
    assert (facts["state"], facts["exit_code"]) == ("over the error budget", 3)
    assert "1 of 7 items failed" in facts["error"]
