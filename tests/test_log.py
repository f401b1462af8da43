"""What a command says while it waits."""

from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest

from pipeline import log as log_module
from pipeline.log import waiting_for
from pipeline.output.counters import RunCounters


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "JSON_EVERY_S", 0.02)


def lines(logged: list[logging.LogRecord], count: int) -> list[str]:
    """Wait for a number of lines, and return them with N for the seconds that have passed: a busy machine takes some."""
    until = time.monotonic() + 30
    while len(logged) < count and time.monotonic() < until:
        time.sleep(0.01)
    return [re.sub(r"\d+ s so far", "N s so far", record.getMessage()) for record in logged[:count]]


def next_line(logged: list[logging.LogRecord]) -> str:
    """Return the second line from now on: the first one may have been made before."""
    logged.clear()
    return lines(logged, 2)[1]


def test_a_long_wait_says_what_it_waits_for(logged: list[logging.LogRecord]) -> None:
    with waiting_for("loading the model"):
        said = lines(logged, 3)
    assert said == ["loading the model", *["still loading the model, N s so far"] * 2]
    count = len(logged)
    time.sleep(0.1)
    assert len(logged) == count, "it ends with the block"


def test_a_wait_says_how_much_is_done(logged: list[logging.LogRecord]) -> None:
    with waiting_for("reading the manifest", at_once=False) as waiting:
        waiting.count(1_200_000, "rows")
        assert next_line(logged) == "still reading the manifest: 1,200,000 rows, N s so far"
    with waiting_for("downloading weights.onnx", at_once=False) as waiting:
        waiting.count(12, "MB", 380)
        assert next_line(logged) == "still downloading weights.onnx: 12 of 380 MB, N s so far"


def test_of_waits_inside_each_other_the_innermost_is_told(logged: list[logging.LogRecord]) -> None:
    with waiting_for("reading the recipe's files", at_once=False):
        with waiting_for("downloading", at_once=False):
            assert {next_line(logged) for _ in range(3)} == {"still downloading, N s so far"}
        assert next_line(logged) == "still reading the recipe's files, N s so far", "the outer one goes on"


def test_progress_says_what_the_first_items_wait_for(logged: list[logging.LogRecord]) -> None:
    with RunCounters(10) as counters:
        counters.until_the_first("loading the model")
        assert next_line(logged) == "progress"
        assert logged[1].facts["doing"] == "loading the model"  # type: ignore[attr-defined]
        counters.add(1, 0, 0)
        assert next_line(logged) == "progress"
        assert "doing" not in logged[1].facts  # type: ignore[attr-defined]


def test_a_short_wait_may_be_silent(logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "JSON_EVERY_S", 60)
    with waiting_for("tidying", at_once=False):
        pass
    assert not logged


def test_progress_is_told_before_anything_is_done(logged: list[logging.LogRecord]) -> None:
    with RunCounters(10):
        assert lines(logged, 2) == ["progress"] * 2
    assert logged[0].facts == {"ok": 0, "review": 0, "failed": 0, "total": 10, "items_per_s": 0.0, "eta_s": None}  # type: ignore[attr-defined]


@pytest.mark.parametrize("bar", [True, False])
def test_a_terminal_shows_a_bar_unless_the_caller_shows_progress(bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with RunCounters(10, bar=bar) as counters:
        counters.add(3, 0, 0)
    assert ("3/10" in terminal.getvalue()) == bar
