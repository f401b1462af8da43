"""Bounded everything: memory, descriptors and object store of a long run are at its end what they were early on.

``make soak`` runs 200,000 items (``ITEMS=20000`` for a trial) and leaves ``out/soak/memory.png`` and ``memory.csv``.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from growth import an_item, growth, over_time, processes

pytestmark = [pytest.mark.study, pytest.mark.timeout(4 * 3600)]  # the first test waits for the run

ROLES = ("driver", "model", "tasks", "ledger", "raylet", "gcs")
OURS = ("driver", "model", "tasks", "ledger")
"""Those that run this package's code."""

GROWTH_MIB, GROWTH_SHARE = 32, 0.15
"""From the first third of the run to the last, for every role, and for ours."""

MORE_OPEN = 3
"""Descriptors, sockets or threads that may come on top: Ray opens some for every process that it talks to."""


def test_every_item_is_done(soak: Any, bars: Any, matteline: str) -> None:
    command = [matteline, "verify", str(soak.output), "--manifest", str(soak.manifest), "--sample", "0.01", "--json"]
    (verdict,) = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout).values()
    bars.at_most("items without a row", soak.items - verdict["rows"], 0)
    bars.at_most("findings of matteline verify --sample 0.01", sum(verdict["counts"].values()), 0)


@pytest.mark.parametrize("role", ROLES)
def test_memory_is_flat(soak: Any, bars: Any, role: str) -> None:
    memory = growth(over_time(soak.flow, role, "heap_mib"))
    bars.at_most(f"{role}: MiB more in the last third than the {memory.first:.0f} of the first", memory.more, GROWTH_MIB)
    if role in OURS:
        bars.at_most(f"{role}: the same as a share", memory.share, GROWTH_SHARE)


def test_ten_million_items_would_fit(soak: Any, bars: Any) -> None:
    bars.at_most("driver: MiB that ten million items would add", 1e7 * an_item(soak.flow, "driver", "heap_mib"), 2048)


@pytest.mark.parametrize("column", ("descriptors", "sockets", "threads"))
@pytest.mark.parametrize("role", ROLES)
def test_as_many_are_open(soak: Any, bars: Any, role: str, column: str) -> None:
    held = growth(over_time(soak.flow, role, column))
    bars.at_most(f"{role}: more {column} than the {held.first:.0f} of the first third", held.more, MORE_OPEN)


def test_as_many_processes_are_at_work(soak: Any, bars: Any) -> None:
    count = growth(processes(soak.flow))
    bars.at_most(f"more processes than the {count.first:.0f} of the first third", count.more, MORE_OPEN)


def test_the_object_store_stays_small(soak: Any, bars: Any) -> None:
    most_mib = soak.samples["store_mib"].max()
    assert most_mib > 0, "nothing could be read of Ray's object store"
    bars.at_most("requests to spill", soak.samples["spill_requests"].max(), 0)
    bars.at_most("object store in use at most, MiB: what waits between the stages", most_mib, 1024)


def test_items_are_committed_all_along(soak: Any, bars: Any) -> None:
    at_work = soak.samples[soak.samples["role"] == "model"]["seconds"]
    before_s, whole_s = soak.flow["seconds"].iloc[0] - at_work.iloc[0], at_work.iloc[-1] - at_work.iloc[0]
    bars.at_most("share of the run before the first items are committed", before_s / whole_s, 0.5)
