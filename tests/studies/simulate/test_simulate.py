"""``make simulate``: bars on the simulation of ten million items, and on its distance from real runs."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(3600)]  # the first test waits for all real runs

MAX_OFF = 0.15
"""Distance of a simulated speed from the real one."""

MIN_SHARE = 0.8
"""Speed on 64 GPUs ÷ the ideal."""

MAX_RESEGMENTED = 0.01
"""Share of the items that go through the model again."""

NEAR = 0.9
"""Speed with a default ÷ the best of its sweep."""


@pytest.mark.parametrize("nodes", (1, 2, 3))
@pytest.mark.parametrize("bottleneck", ("the model", "the slots"))
def test_the_simulation_is_near_real_runs(pairs: Any, bars: Any, bottleneck: str, nodes: int) -> None:
    pair = pairs[bottleneck, nodes]
    speeds = f"{pair.simulated:.2f} items/s simulated, {pair.real:.2f} real"
    bars.at_most(f"nodes: {nodes}, bottleneck {bottleneck}: {speeds}; off by", pair.off, MAX_OFF)


def test_every_item_is_committed_once(large: Any, bars: Any) -> None:
    """The simulation itself refuses to commit an item twice."""
    lost = large.result.items - sum(count for _, count in large.result.commits)
    bars.at_most(f"items of {large.result.items:,} not committed, {large.result.losses} nodes lost", lost, 0)


def test_the_gpus_are_used(large: Any, bars: Any) -> None:
    name = f"{large.case.gpus} GPUs: {large.result.items_per_s:,.0f} items/s ÷ the ideal {large.ideal:,.0f}"
    bars.at_least(name, large.share, MIN_SHARE)


def test_little_work_is_repeated(large: Any, bars: Any) -> None:
    name = f"share of items through the model again, {large.result.losses} nodes lost"
    bars.at_most(name, large.resegmented, MAX_RESEGMENTED)


@pytest.mark.parametrize("setting", ("rows_per_block", "rows_per_part", "prefixes", "block_mib"))
def test_defaults_are_near_the_best(sweeps: Any, bars: Any, setting: str) -> None:
    from sweeps import defaults

    default = getattr(defaults(), setting)
    speeds = {getattr(run.case, setting): run.result.mean_items_per_s for run in sweeps[setting]}
    best = max(speeds, key=lambda value: speeds[value])
    name = f"{setting}={default}, the default: {speeds[default]:,.0f} items/s ÷ the {speeds[best]:,.0f} of {best}"
    bars.at_least(name, speeds[default] / speeds[best], NEAR)
