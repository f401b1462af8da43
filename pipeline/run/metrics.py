"""Every metric of our own: its name, unit, help and labels. Ray exports them on each node's metrics port, for Prometheus.

Ray puts ``ray_`` before a name and ``_total`` behind a counter's, and adds labels that say whose it is (node, worker, session).
Outside a Ray process, in the stages' tests and for one picture, nothing is measured and Ray isn't imported.

A task that is repeated counts again: the index has the truth, these numbers have its course in time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """One of them."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram's buckets, upper ends; above 0."""

    @property
    def exported(self) -> str:
        """As Prometheus has it; a histogram's series end in ``_bucket``, ``_sum`` and ``_count``."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def add(self, value: float, **labels: str) -> None:
        """Count more; nothing for 0."""
        if value > 0:
            self._tell("inc", [value], labels)

    def set(self, value: float, **labels: str) -> None:
        """The gauge stands here now."""
        self._tell("set", [value], labels)

    def observe(self, values: Iterable[float | None], **labels: str) -> None:
        """Values for the histogram; None isn't one."""
        self._tell("observe", [value for value in values if value is not None], labels)

    def _tell(self, how: str, values: Iterable[float], labels: dict[str, str]) -> None:
        ray = sys.modules.get("ray")
        # Ray calls this interface a developer's, and it may be torn down while a task ends: no item may fail of being counted.
        with suppress(Exception):
            if ray is not None and ray.is_initialized():
                tell = getattr(_made(self), how)
                for value in values:
                    tell(value, tags=labels)


_known: dict[Metric, Any] = {}


def _made(metric: Metric) -> Any:
    """Ray's object for it, one in each process."""
    if metric not in _known:
        from ray.util import metrics

        kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
        more = {"boundaries": list(metric.bounds)} if metric.bounds else {}
        _known[metric] = kinds[metric.kind](metric.name, description=metric.about, tag_keys=metric.labels, **more)
    return _known[metric]


ITEMS = Metric("counter", "matteline_items", "Items committed to the index, by status and error code.", ("status", "code"))
SECONDS = Metric(
    "histogram",
    "matteline_stage_seconds",
    "Seconds an item takes in a stage: fetch, decode, model (its share of the batch), finish, write; a whole part in commit.",
    ("stage",),
    (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120),
)
FETCHED = Metric("counter", "matteline_fetched_bytes", "Bytes of images read.")
WRITTEN = Metric("counter", "matteline_written_bytes", "Bytes of masks, cutouts, trimaps and renditions published.")
BATCH = Metric("histogram", "matteline_batch_items", "Items that one call of the model gets.", (), (1, 2, 4, 8, 16, 32, 64))
QUALITY = Metric(
    "histogram", "matteline_quality", "Quality of the items committed.", (), (*(step / 20 for step in range(1, 20)), 1.0)
)
DEVICE_MEMORY = Metric(
    "gauge",
    "matteline_device_memory_bytes",
    "Of the GPU, by the model's process: reserved by PyTorch now, and its peak.",
    ("what",),
)
RUN_ITEMS = Metric(
    "gauge",
    "matteline_run_items",
    "Items of the run in the index so far, by status and error code: exact, where the counter counts repeats too.",
    ("status", "code"),
)
LEFT = Metric("gauge", "matteline_items_left", "Items of the run without an index row yet: the queue before everything.")
SPEED = Metric("gauge", "matteline_items_per_second", "Items committed a second, over the last two minutes.")
LEASE = Metric("gauge", "matteline_lease_renewed_timestamp_seconds", "When the run last renewed its lease, since 1970.")

ALL = (ITEMS, SECONDS, FETCHED, WRITTEN, BATCH, QUALITY, DEVICE_MEMORY, RUN_ITEMS, LEFT, SPEED, LEASE)
