"""The crash ledger as a Ray actor that all workers of a run reach.

Apart from ``graph``: a worker imports what it unpickles, and the graph imports the model's libraries (seconds and 300 MB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.run.crash_ledger import InMemoryLedger
from pipeline.run.ray_data import RETRY_FOREVER


class RayCrashLedger:
    """Handle of the ledger actor. The actor runs beside the driver and dies with it."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    @classmethod
    def start(cls) -> RayCrashLedger:
        """Start the actor on the driver's machine: if that machine is lost, so is the run.

        If its process is killed, it starts again without entries: an item that crashes gets further attempts.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        forever = {"max_restarts": RETRY_FOREVER, "max_task_retries": RETRY_FOREVER}
        return cls(ray.remote(InMemoryLedger).options(num_cpus=0, scheduling_strategy=here, **forever).remote())

    def begin(self, keys: Sequence[str]) -> list[int]:
        """See ``CrashLedger``."""
        crashes: list[int] = ray.get(self.actor.begin.remote(keys))
        return crashes

    def begin_alone(self, key: str) -> None:
        """See ``CrashLedger``."""
        ray.get(self.actor.begin_alone.remote(key))

    def survived(self, key: str) -> None:
        """See ``CrashLedger``."""
        self.actor.survived.remote(key)

    def end(self, keys: Sequence[str]) -> None:
        """See ``CrashLedger``. Not awaited: a stale entry costs one isolated attempt, nothing more."""
        self.actor.end.remote(keys)
