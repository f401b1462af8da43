"""What a command says while it waits."""

from __future__ import annotations

import io
import logging
import sys
import time

import pytest

from pipeline import log as log_module
from pipeline.log import RunCounters, waiting_for


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
