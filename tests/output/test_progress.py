"""What a run tells of itself while it lives: one object, rewritten, that never costs the run anything."""

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
from pipeline.output.layout import Layout
from pipeline.output.progress import Progress
from pipeline.output.run_record import RunRecord
from pipeline.run.driver import run_job
from pipeline.storage.files import Files

MakePhotos = Callable[..., list[Path]]


@pytest.fixture
def record() -> RunRecord:
    return RunRecord("20261123T020000Z-000001", "m.csv", "0123", "mvanet-lite", 100, 10)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path), "mvanet-lite-0123")


class Written(Files):
    """Keeps what is written, and tells; a store that refuses, if it is told to."""

    def __init__(self, refuse: bool = False) -> None:
        super().__init__()
        object.__setattr__(self, "told", [])
        object.__setattr__(self, "twice", threading.Event())
        object.__setattr__(self, "refuse", refuse)

    def write(self, uri: str, data: bytes) -> None:
        self.told.append(json.loads(data))
        if len(self.told) >= 3:
            self.twice.set()
        if self.refuse:
            raise WriteError("no space left")


def test_it_is_written_without_any_item_and_says_the_end_once(record: RunRecord, layout: Layout) -> None:
    files = Written()
    with Progress(record, layout, files, owner="me", every_s=0.01) as progress:
        assert files.twice.wait(60)
        record.ok, record.failed, record.items_per_s = 40, 5, 2.0
        record.close(3, "too many")
        progress.close()
    first, last = files.told[0], files.told[-1]
    assert (first["state"], first["exit_code"], first["items"], first["done_before"]) == ("running", None, 100, 10)
    assert (last["state"], last["exit_code"], last["error"]) == ("over the error budget", 3, "too many")
    assert (last["ok"], last["failed"], last["eta_s"], last["owner"]) == (40, 5, None, "me")
    assert [told["state"] for told in files.told].count("over the error budget") >= 1
    assert "running" not in [told["state"] for told in files.told[files.told.index(last) :]]


def test_a_store_that_refuses_costs_one_warning(record: RunRecord, layout: Layout, logged: list[logging.LogRecord]) -> None:
    files = Written(refuse=True)
    with Progress(record, layout, files, owner="me", every_s=0.01) as progress:
        assert files.twice.wait(60)
        record.close(0)
        progress.close()
    assert ["progress can't be written" in record.getMessage() for record in logged].count(True) == 1


def test_a_slow_store_keeps_nobody_from_beating(record: RunRecord, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray forgets a gauge that nobody sets for a while, just when somebody should be told."""
    monkeypatch.setattr("pipeline.output.progress.BEAT_S", 0.01)
    free, thrice, beats = threading.Event(), threading.Event(), []

    class Slow(Files):
        def write(self, uri: str, data: bytes) -> None:
            assert free.wait(60)

    def beat(facts: dict[str, Any]) -> None:
        beats.append(facts["state"])
        if len(beats) >= 3:
            thrice.set()

    with Progress(record, layout, Slow(), owner="me", every_s=600, beat=beat) as progress:
        assert thrice.wait(60)
        free.set()
        record.close(0)
        progress.close()
    assert beats[0] == "running" and beats[-1] == "complete"


def test_the_time_left_comes_from_the_last_minutes(record: RunRecord, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.output.progress.time.monotonic", lambda: now)
    progress = Progress(record, layout, Files(), owner="me", every_s=30)
    assert progress.facts()["eta_s"] is None
    for step in range(1, 11):
        now, record.ok = 30.0 * step, min(8, step) * 6
        record.items_per_s = record.ok / now
        facts = progress.facts()
    # Nothing for a minute, 12 in the one before.
    assert facts["recent_items_per_s"] == 0.1
    assert facts["items_per_s"] == 0.16
    assert facts["eta_s"] == 420


@pytest.mark.usefixtures("ray_session")
def test_a_run_leaves_its_last_word(tmp_path: Path, make_photos: MakePhotos, fake_preset: str) -> None:
    make_photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")
    where: dict[str, Any] = {"manifest": str(tmp_path / "photos"), "preset": fake_preset}
    settings = ["compute.progress_s=0.2", "budget.max_failed_share=0.5", "compute.rows_per_part=2"]
    plan, record = run_job(load_job(**where, output=str(tmp_path / "out"), overrides=settings))
    told = json.loads(Path(plan.layout.progress(record.run_id)).read_text())
    assert (told["state"], told["exit_code"], told["items"]) == ("complete", 0, 7)
    assert (told["ok"] + told["review"], told["failed"], told["failures"]["decode"]["count"]) == (6, 1, 1)
    assert told["manifest"] == record.manifest and told["dashboard"] is None and told["every_s"] == 0.2

    with pytest.raises(ErrorBudgetExceeded):
        run_job(load_job(**where, output=str(tmp_path / "strict"), overrides=["budget.max_failed_share=0.1"]))
    (path,) = (tmp_path / "strict").rglob("progress/*.json")
    told = json.loads(path.read_text())
    assert (told["state"], told["exit_code"]) == ("over the error budget", 3)
    assert "1 of 7 items failed" in told["error"]
