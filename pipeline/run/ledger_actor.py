"""The ledger of a run, where all its workers reach it.

Not beside the graph: what a worker unpickles it imports first, and the graph's module needs the model's libraries, which
cost seconds and 300 MB in processes that only read, decode and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.run.crash_ledger import InMemoryLedger


class RayCrashLedger:
    """The ledger of a run as its workers see it: an actor beside the driver, which dies with it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def start(cls) -> RayCrashLedger:
        """On the driver's machine: if that is lost, the run is."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(ray.remote(InMemoryLedger).options(num_cpus=0, scheduling_strategy=here).remote())

    def begin(self, keys: Sequence[str]) -> list[int]:
        found: list[int] = ray.get(self.actor.begin.remote(keys))
        return found

    def begin_alone(self, key: str) -> None:
        ray.get(self.actor.begin_alone.remote(key))

    def survived(self, key: str) -> None:
        self.actor.survived.remote(key)

    def end(self, keys: Sequence[str]) -> None:
        self.actor.end.remote(keys)  # nobody waits for it: a note too many costs an attempt alone, nothing more
