"""``make bench-scale``: a million manifest rows in bounded memory, each as fast as a row of a small manifest."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(2 * 3600)]  # the first test waits for all runs

MIN_SPEED = 0.75
"""Rows per second ÷ those of a run with a sixteenth of the rows: linear within 25 %."""


def test_every_row_is_in_the_index(runs: Any, bars: Any) -> None:
    bars.at_most("rows that are not in the index", sum(run.rows - run.indexed for run in runs), 0)


def test_driver_memory_is_bounded(runs: Any, bars: Any) -> None:
    largest = runs[-1]
    bars.at_most(f"driver: peak of resident MiB, {largest.rows:,} rows", largest.driver_mib, 1024)


def test_driver_memory_does_not_grow_with_the_rows(runs: Any, bars: Any) -> None:
    first, last = runs[0], runs[-1]
    more = f"{last.rows:,} rows than the {first.driver_heap_mib:.0f} with {first.rows:,}"
    bars.at_most(f"driver: MiB more allocated with {more}", last.driver_heap_mib - first.driver_heap_mib, 256)


@pytest.mark.parametrize("size", (1, 2))
def test_the_flow_is_linear(runs: Any, bars: Any, size: int) -> None:
    first, larger = runs[0], runs[size]
    speeds = f"{larger.flow_rows_per_s:,.0f} rows/s ÷ the {first.flow_rows_per_s:,.0f} of {first.rows:,}"
    bars.at_least(f"flow of {larger.rows:,} rows: {speeds}", larger.flow_rows_per_s / first.flow_rows_per_s, MIN_SPEED)


@pytest.mark.parametrize("size", (1, 2))
def test_the_complete_command_is_linear(runs: Any, bars: Any, size: int) -> None:
    """Start-up is part of the time, so larger runs may have more rows per second."""
    first, larger = runs[0], runs[size]
    speeds = f"{larger.rows_per_s:,.0f} rows/s ({larger.seconds:.0f} s) ÷ the {first.rows_per_s:,.0f} of {first.rows:,}"
    bars.at_least(f"complete command, {larger.rows:,} rows: {speeds}", larger.rows_per_s / first.rows_per_s, MIN_SPEED)


def test_a_finished_run_is_recognised_quickly(runs: Any, bars: Any) -> None:
    """The same command again reads manifest and index: at most a minute per million rows."""
    largest = runs[-1]
    bars.at_most(f"the same command again, {largest.rows:,} rows done: s", largest.again_s, 60 * max(1, largest.rows / 1e6))
