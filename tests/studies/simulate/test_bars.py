"""``make simulate``: ten million items past this machine, and what makes us believe the numbers.

Tables are printed and kept in ``out/simulate/tables.md``, numbers in ``runs.json``, the picture in ``simulate.png``.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]  # the first test waits for all real runs

OFF = 0.15
"""Simulated against real, at most."""

SHARE = 0.8
"""Of the ideal throughput, on 64 GPUs."""

REDONE = 0.01
"""Of the items may go through the model again."""

NEAR = 0.9
"""A default's throughput against the best of its sweep, at least."""


@pytest.mark.parametrize("count", (1, 2, 3))
@pytest.mark.parametrize("bound", ("the model", "the slots"))
def test_simulated_is_like_real(pairs: Any, bars: Any, bound: str, count: int) -> None:
    pair = pairs[bound, count]
    speeds = f"{pair.simulated:.2f} items/s simulated, {pair.real:.2f} real"
    bars.at_most(f"nodes: {count}, bound by {bound}: {speeds}; off by", pair.off, OFF)


def test_every_item_is_done_once(whole: Any, bars: Any) -> None:
    """The simulation itself refuses to commit an item twice."""
    lost = whole.result.items - sum(count for _, count in whole.result.commits)
    bars.at_most(f"items of {whole.result.items:,} not committed, {whole.result.losses} nodes lost", lost, 0)


def test_the_gpus_are_used(whole: Any, bars: Any) -> None:
    bars.at_least(
        f"{whole.case.gpus} GPUs: {whole.result.items_per_s:,.0f} items/s ÷ the ideal {whole.ideal:,.0f}", whole.share, SHARE
    )


def test_little_is_redone(whole: Any, bars: Any) -> None:
    bars.at_most(f"share of items through the model again, {whole.result.losses} nodes lost", whole.twice, REDONE)


@pytest.mark.parametrize("setting", ("rows_per_block", "rows_per_part", "prefixes", "block_mib"))
def test_defaults_are_near_the_best(sweeps: Any, bars: Any, setting: str) -> None:
    from sweeps import defaults

    chosen = getattr(defaults(), setting)
    speeds = {getattr(run.case, setting): run.result.mean_items_per_s for run in sweeps[setting]}
    best = max(speeds, key=lambda value: speeds[value])
    told = f"{setting}={chosen}, as it is: {speeds[chosen]:,.0f} items/s ÷ the {speeds[best]:,.0f} of {best}"
    bars.at_least(told, speeds[chosen] / speeds[best], NEAR)
