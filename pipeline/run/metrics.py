"""Define the metrics that Ray exports for Prometheus on each machine's metrics port: name, unit, help text, labels.

Ray adds the prefix ``ray_``, the suffix ``_total`` to counters, and labels for node, worker and session. Outside a Ray process
(tests, single pictures) nothing is measured and Ray is not imported. A repeated task counts again; exact numbers are in the
index.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A counter, gauge or histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets, above 0."""

    @property
    def exported(self) -> str:
        """Name in Prometheus. A histogram's series end in ``_bucket``, ``_sum`` and ``_count``."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"

    def add(self, value: float, **labels: str) -> None:
        """Add to a counter."""
        if value > 0:
            self._send("inc", [value], labels)

    def set(self, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._send("set", [value], labels)

    def observe(self, values: Iterable[float | None], **labels: str) -> None:
        """Add values to a histogram, without those that are None."""
        self._send("observe", [value for value in values if value is not None], labels)

    def _send(self, method: str, values: Iterable[float], labels: dict[str, str]) -> None:
        ray = sys.modules.get("ray")
        # A developer API of Ray that may be torn down while a task ends. Counting must never fail an item.
        with suppress(Exception):
            if ray is not None and ray.is_initialized():
                send = getattr(_ray_metric(self), method)
                for value in values:
                    send(value, tags=labels)


_known: dict[Metric, Any] = {}


def _ray_metric(metric: Metric) -> Any:
    """Return Ray's object for a metric, one per process."""
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
    "Seconds per item in a stage: fetch, decode, model (share of the batch), finish, write. In commit: seconds per index part.",
    ("stage",),
    (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120),
)
FETCHED = Metric("counter", "matteline_fetched_bytes", "Bytes of images read.")
WRITTEN = Metric("counter", "matteline_written_bytes", "Bytes of masks, cutouts, trimaps and renditions written.")
BATCH = Metric("histogram", "matteline_batch_items", "Items per call of the model.", (), (1, 2, 4, 8, 16, 32, 64))
QUALITY = Metric(
    "histogram", "matteline_quality", "Quality of the items committed.", (), (*(step / 20 for step in range(1, 20)), 1.0)
)
DEVICE_MEMORY = Metric(
    "gauge",
    "matteline_device_memory_bytes",
    "GPU memory of the model's process: reserved by PyTorch now, and its peak.",
    ("what",),
)
RUN_ITEMS = Metric(
    "gauge",
    "matteline_run_items",
    "Items of the run in the index so far, by status and error code. Exact, unlike the counter, which counts repeated tasks.",
    ("status", "code"),
)
LEFT = Metric("gauge", "matteline_items_left", "Items of the run that have no index row yet.")
SPEED = Metric("gauge", "matteline_items_per_second", "Items committed per second, over the last two minutes.")
LEASE = Metric(
    "gauge", "matteline_lease_renewed_timestamp_seconds", "Time when the run last renewed its lease, in seconds since 1970."
)

ALL = (ITEMS, SECONDS, FETCHED, WRITTEN, BATCH, QUALITY, DEVICE_MEMORY, RUN_ITEMS, LEFT, SPEED, LEASE)
