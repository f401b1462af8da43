"""The steady state of a run, from when its items were finished."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench.job import Steady, steady
from pipeline.errors import ConfigError


def flow(ends: list[float], rows: int, processes: int = 1, ahead_s: float = 0.0) -> Steady:
    """Of so many rows a block, stamped a millisecond after each other, the last when its block ends."""
    finished = np.concatenate([end - 0.001 * np.arange(rows) for end in ends])
    workers = np.repeat(np.arange(len(ends)) % processes, rows)
    shuffled = np.random.default_rng(0).permutation(len(finished))
    return steady(finished[shuffled], workers[shuffled], ahead_s)


def test_start_and_end_do_not_count() -> None:
    """Ten items a second, but for a slow beginning and a slow end."""
    found = flow([30.0, *(31.0 + np.arange(18)), 80.0], 10)
    assert found.items % 10 == 0 and 100 <= found.items <= 140
    assert found.items_per_s == pytest.approx(10)


def test_rows_of_a_block_are_not_taken_for_speed() -> None:
    """Fifteen percent of forty rows lie within the first block of ten: it doesn't count, and neither does a part of it."""
    found = flow([1.0, 3.0, 5.0, 7.0], 10)
    assert (found.items, found.seconds) == (20, pytest.approx(4))


def test_two_processes_may_end_a_block_at_once() -> None:
    found = flow(sorted([*np.arange(1.0, 21.0), *(np.arange(1.0, 21.0) + 0.004)]), 5, processes=2)
    assert found.items_per_s == pytest.approx(10, rel=0.05)


def test_reading_ahead_is_charged() -> None:
    ends = list(np.arange(1.0, 21.0))
    free, charged = flow(ends, 10), flow(ends, 10, ahead_s=0.025)
    assert charged.items == free.items
    assert charged.items_per_s == pytest.approx(1 / (1 / free.items_per_s + 0.025))


@pytest.mark.parametrize(("ends", "rows"), (([1.0], 50), ([1.0, 2.0], 10), ([3.0], 1)))
def test_too_few_to_tell(ends: list[float], rows: int) -> None:
    with pytest.raises(ConfigError, match="too few"):
        flow(ends, rows)
