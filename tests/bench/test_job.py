"""The steady state of a run, from the times at which its items were finished."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bench.job import Steady, steady
from pipeline.errors import ConfigError


def measure(ends: list[float], rows: int, processes: int = 1, ahead_s: float = 0.0) -> Steady:
    """Measure blocks of ``rows`` items, stamped one millisecond apart, the last at the block's end."""
    finished = np.concatenate([end - 0.001 * np.arange(rows) for end in ends])
    workers = np.repeat(np.arange(len(ends)) % processes, rows)
    shuffled = np.random.default_rng(0).permutation(len(finished))
    return steady(finished[shuffled], workers[shuffled], ahead_s)


def test_a_slow_start_and_a_slow_end_do_not_count() -> None:
    found = measure([30.0, *(31.0 + np.arange(18)), 80.0], 10)
    assert found.items % 10 == 0 and 100 <= found.items <= 140
    assert found.items_per_s == pytest.approx(10)


def test_only_complete_blocks_count() -> None:
    """Fifteen percent of forty rows lie within the first block of ten, so none of that block's rows counts."""
    found = measure([1.0, 3.0, 5.0, 7.0], 10)
    assert (found.items, found.seconds) == (20, pytest.approx(4))


def test_blocks_of_two_processes_may_end_at_the_same_time() -> None:
    found = measure(sorted([*np.arange(1.0, 21.0), *(np.arange(1.0, 21.0) + 0.004)]), 5, processes=2)
    assert found.items_per_s == pytest.approx(10, rel=0.05)


def test_reading_ahead_is_added_to_the_time() -> None:
    ends = list(np.arange(1.0, 21.0))
    free, charged = measure(ends, 10), measure(ends, 10, ahead_s=0.025)
    assert charged.items == free.items
    assert charged.items_per_s == pytest.approx(1 / (1 / free.items_per_s + 0.025))


@pytest.mark.parametrize(("ends", "rows"), [([1.0], 50), ([1.0, 2.0], 10), ([3.0], 1)])
def test_too_few_items_are_refused(ends: list[float], rows: int) -> None:
    with pytest.raises(ConfigError, match="too few"):
        measure(ends, rows)
