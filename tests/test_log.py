"""What a command says while it waits."""

from __future__ import annotations

import io
import logging
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
    """Wait for a number of lines, and return them."""
    until = time.monotonic() + 30
    while len(logged) < count and time.monotonic() < until:
        time.sleep(0.01)
    return [record.getMessage() for record in logged[:count]]


def test_a_long_wait_says_what_it_waits_for(logged: list[logging.LogRecord]) -> None:
    with waiting_for("loading the model"):
        said = lines(logged, 3)
    assert said == ["loading the model", *["still loading the model, 0 s so far"] * 2]
    count = len(logged)
    time.sleep(0.1)
    assert len(logged) == count, "it ends with the block"


def test_a_wait_says_how_much_is_done(logged: list[logging.LogRecord]) -> None:
    with waiting_for("reading the manifest", at_once=False) as waiting:
        waiting.count(1_200_000, "rows")
        assert lines(logged, 1) == ["still reading the manifest: 1,200,000 rows, 0 s so far"]
    with waiting_for("downloading weights.onnx", at_once=False) as waiting:
        waiting.count(12, "MB", 380)
        logged.clear()
        assert lines(logged, 1) == ["still downloading weights.onnx: 12 of 380 MB, 0 s so far"]


def test_of_waits_inside_each_other_the_innermost_is_told(logged: list[logging.LogRecord]) -> None:
    with waiting_for("reading the recipe's files", at_once=False):
        with waiting_for("downloading", at_once=False):
            said = set(lines(logged, 3))
        assert said == {"still downloading, 0 s so far"}
        logged.clear()
        assert lines(logged, 1) == ["still reading the recipe's files, 0 s so far"], "the outer one goes on"


def test_progress_says_what_the_first_items_wait_for(logged: list[logging.LogRecord]) -> None:
    with RunCounters(10) as counters:
        counters.until_the_first("loading the model")
        logged.clear()
        lines(logged, 1)
        assert logged[0].facts["doing"] == "loading the model"  # type: ignore[attr-defined]
        counters.add(1, 0, 0)
        logged.clear()
        lines(logged, 1)
        assert "doing" not in logged[0].facts  # type: ignore[attr-defined]


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
