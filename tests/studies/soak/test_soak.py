"""``make soak``: memory, descriptors and object store of a long run do not grow."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from growth import growth, over_time, per_item, processes

pytestmark = [pytest.mark.study, pytest.mark.timeout(4 * 3600)]  # the first test waits for the run

ROLES = ("driver", "model", "tasks", "ledger", "raylet", "gcs")
OURS = ("driver", "model", "tasks", "ledger")
"""Roles whose processes run this package's code."""

GROWTH_MIB, GROWTH_SHARE = 32, 0.15
"""Limits from the first third of the run to the last: for every role, and for ours."""

MORE_OPEN = 3
"""Descriptors, sockets or threads that may be added: Ray opens some for every process that it talks to."""


def test_every_item_is_done(soak: Any, bars: Any, matteline: str) -> None:
    command = [matteline, "verify", str(soak.output), "--manifest", str(soak.manifest), "--sample", "0.01", "--json"]
    (report,) = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout).values()
    bars.at_most("items without a row", soak.items - report["rows"], 0)
    bars.at_most("findings of matteline verify --sample 0.01", sum(report["counts"].values()), 0)


@pytest.mark.parametrize("role", ROLES)
def test_memory_does_not_grow(soak: Any, bars: Any, role: str) -> None:
    memory = growth(over_time(soak.flow, role, "heap_mib"))
    bars.at_most(f"{role}: MiB more in the last third than the {memory.first:.0f} of the first", memory.more, GROWTH_MIB)
    if role in OURS:
        bars.at_most(f"{role}: the same as a share", memory.share, GROWTH_SHARE)


def test_the_driver_can_hold_ten_million_items(soak: Any, bars: Any) -> None:
    bars.at_most("driver: MiB that ten million items would add", 1e7 * per_item(soak.flow, "driver", "heap_mib"), 2048)


@pytest.mark.parametrize("column", ("descriptors", "sockets", "threads"))
@pytest.mark.parametrize("role", ROLES)
def test_open_handles_do_not_grow(soak: Any, bars: Any, role: str, column: str) -> None:
    handles = growth(over_time(soak.flow, role, column))
    bars.at_most(f"{role}: more {column} than the {handles.first:.0f} of the first third", handles.more, MORE_OPEN)


def test_the_number_of_processes_does_not_grow(soak: Any, bars: Any) -> None:
    count = growth(processes(soak.flow))
    bars.at_most(f"more processes than the {count.first:.0f} of the first third", count.more, MORE_OPEN)


def test_the_object_store_stays_small(soak: Any, bars: Any) -> None:
    peak_mib = soak.samples["store_mib"].max()
    assert peak_mib > 0, "Ray's object store could not be read"
    bars.at_most("spill requests", soak.samples["spill_requests"].max(), 0)
    bars.at_most("peak of the object store, MiB: data that waits between the stages", peak_mib, 1024)


def test_items_are_committed_from_early_on(soak: Any, bars: Any) -> None:
    at_work = soak.samples[soak.samples["role"] == "model"]["seconds"]
    before_s, total_s = soak.flow["seconds"].iloc[0] - at_work.iloc[0], at_work.iloc[-1] - at_work.iloc[0]
    bars.at_most("share of the run before the first items are committed", before_s / total_s, 0.5)
