"""What a Python caller is told about a run, how often, and what its function may raise."""

from __future__ import annotations

import logging

import pytest

from pipeline.errors import Stopped
from pipeline.output.run_record import RunRecord
from pipeline.run import callback
from pipeline.run.callback import Reporter, RunProgress


@pytest.fixture
def record() -> RunRecord:
    return RunRecord("run-1", "photos", "0" * 64, "fake", items=12, done_before=2, ok=3, review=1, failed=1, items_per_s=2.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the reporter, to be moved on."""
    now = [100.0]
    monkeypatch.setattr(callback.time, "monotonic", lambda: now[0])
    return now


def test_it_has_the_counts_of_the_record_and_an_estimate(record: RunRecord) -> None:
    told: list[RunProgress] = []
    Reporter(told.append, record).update()
    assert told == [RunProgress("run-1", "running", 12, 2, ok=3, review=1, failed=1, derived=0, items_per_s=2.0)]
    assert (told[0].done, told[0].eta_s) == (7, 2.5)
    assert RunProgress("run-1", "running", 12, 2, 0, 0, 0, 0, items_per_s=0.0).eta_s is None
    assert RunProgress("run-1", "complete", 12, 12, 0, 0, 0, 0, items_per_s=0.0).eta_s == 0


def test_with_videos_the_estimate_is_that_of_their_frames(record: RunRecord) -> None:
    told: list[RunProgress] = []
    record.videos_left, record.frames_left, record.frames_per_s = 2, 300, 20.0
    Reporter(told.append, record).update()
    assert (told[0].items_per_s, told[0].frames_left, told[0].eta_s) == (2.0, 300, 15.0)


def test_it_is_called_four_times_per_second_at_most_and_at_the_end(record: RunRecord, clock: list[float]) -> None:
    told: list[RunProgress] = []
    reporter = Reporter(told.append, record)
    for _ in range(100):
        reporter.update()
        clock[0] += 0.01
    assert len(told) == 4
    record.close(0)
    reporter.finish()
    assert len(told) == 5 and told[-1].state == "complete"


def test_an_error_of_the_function_is_logged_once_and_it_is_not_called_again(
    record: RunRecord, clock: list[float], logged: list[logging.LogRecord]
) -> None:
    calls: list[RunProgress] = []

    def broken(progress: RunProgress) -> None:
        calls.append(progress)
        raise ValueError("no such widget")

    reporter = Reporter(broken, record)
    for _ in range(3):
        reporter.update()
        clock[0] += 1
    reporter.finish()
    assert len(calls) == 1
    (line,) = logged
    assert "is not called again; the run goes on" in line.getMessage()
    assert line.exc_info is not None and "no such widget" in str(line.exc_info[1])


def test_an_error_of_the_package_ends_the_run_but_not_after_its_end(record: RunRecord, logged: list[logging.LogRecord]) -> None:
    def enough(progress: RunProgress) -> None:
        raise Stopped("enough")

    with pytest.raises(Stopped, match="enough"):
        Reporter(enough, record).update()
    assert logged == []
    Reporter(enough, record).finish()
    assert "after the end of the run: enough" in logged[0].getMessage()


def test_without_a_function_nothing_happens(record: RunRecord) -> None:
    reporter = Reporter(None, record)
    reporter.update()
    reporter.finish()
    assert reporter.is_silent and not Reporter(print, record).is_silent
