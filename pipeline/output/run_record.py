"""What became of a run: its record, written last, and the index's own account."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pipeline.errors import FetchError
from pipeline.log import RunCounters
from pipeline.output.index import Summary, recipes, summarise
from pipeline.output.layout import Layout
from pipeline.storage.files import Files

OUTCOMES = {0: "complete", 1: "broken", 2: "refused", 3: "over the error budget", 4: "stopped", 5: "another run is at it"}


@dataclass
class RunRecord:
    """``runs/<run_id>.json``. Counts are of this run; the index counts what all runs of the recipe did."""

    run_id: str
    manifest: str
    recipe: str
    preset: str
    items: int
    done_before: int
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    finished_at: str | None = None
    seconds: float = 0.0
    ok: int = 0
    review: int = 0
    failed: int = 0
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    items_per_s: float = 0.0
    actors: int | None = None
    """Of the model, when the last pass began."""
    gpus_per_actor: float = 0.0
    """GPUs that each copy has."""
    actor_hours: float | None = None
    """Hours of all copies together, busy or not, from where the machines are there; None where their number isn't known."""
    idle_share: float | None = None
    """Of the copies' hours, the model's loading among them: when none had a picture to work on."""
    items_per_gpu_hour: float | None = None
    """None without GPUs."""
    store_mib_per_item: float | None = None
    """What the stages handed one another through Ray's object store, shared over the items."""
    dashboard: str | None = None
    """Ray's, while the run lived; None where it had none."""
    drift: dict[str, Any] | None = None
    """How far its items are from the accepted ones (``acceptance.drift``); None where nothing was accepted."""
    exit_code: int | None = None
    outcome: str | None = None
    error: str | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "python": platform.python_version(),
            **{name: version(name) for name in ("matteline", "ray", "torch", "onnxruntime", "pyarrow")},
        }
    )

    def count(self, counters: RunCounters) -> None:
        """Take over what has been committed so far."""
        self.ok, self.review, self.failed = (counters.counts[status] for status in ("ok", "review", "failed"))
        # New ones each time: a thread may be writing the old ones down.
        self.failures = {code: dict(entry) for code, entry in counters.failures.items()}
        self.items_per_s = round(counters.items_per_s, 3)
        if counters.actor_s and counters.done:
            self.actor_hours = counters.actor_s / 3600
            self.idle_share = round(max(0.0, 1 - counters.model_s / counters.actor_s), 3)
            gpu_hours = self.actor_hours * self.gpus_per_actor
            self.items_per_gpu_hour = round(counters.done / gpu_hours) if gpu_hours else None
        if counters.store_bytes and counters.done:
            self.store_mib_per_item = round(counters.store_bytes / 2**20 / counters.done, 3)

    def close(self, exit_code: int, error: str | None = None) -> None:
        """Say how it ended."""
        self.exit_code, self.outcome, self.error = exit_code, OUTCOMES.get(exit_code, "broken"), error
        finished = datetime.now(UTC)
        self.finished_at = finished.isoformat(timespec="seconds")
        self.seconds = round((finished - datetime.fromisoformat(self.started_at)).total_seconds(), 1)

    def write(self, layout: Layout, files: Files) -> None:
        """Publish the record.

        Raises:
            WriteError: it could not be written.
        """
        files.write(layout.run(self.run_id), json.dumps(asdict(self), indent=2, ensure_ascii=False).encode())


def speed_of(run: Mapping[str, Any]) -> str:
    """A run record's time and what was made of it, in words; older records know less."""
    told = [f"{run['seconds']:g} s"]
    if run.get("items_per_s"):
        told.append(f"{run['items_per_s']:g} items/s")
    if run.get("items_per_gpu_hour"):
        told.append(f"{run['items_per_gpu_hour']:,} items a GPU hour")
    if run.get("idle_share") is not None:
        told.append(f"model idle {run['idle_share']:.0%} of the time")
    return ", ".join(told)


@dataclass(frozen=True)
class RecipeReport:
    """One recipe's folder of an output: its index in numbers and its last run."""

    layout: Layout
    summary: Summary
    last_run: dict[str, Any] | None


def read_report(output: str, files: Files) -> list[RecipeReport]:
    """Every recipe under an output (or the one recipe whose folder is named).

    Raises:
        StorageError: the output can't be listed.
    """
    reports = []
    for folder in recipes(output, files):
        reports.append(report_of(Layout.of(folder), files))
    return reports


def report_of(layout: Layout, files: Files) -> RecipeReport:
    """One recipe's.

    Raises:
        StorageError: the index can't be read.
    """
    return RecipeReport(layout, summarise(layout, files), last_run(layout, files))


def last_run(layout: Layout, files: Files) -> dict[str, Any] | None:
    """The record of the latest run that left one; None without any."""
    return next(records(layout, files), None)


def records(layout: Layout, files: Files) -> Iterator[dict[str, Any]]:
    """Those of all runs that left one, the latest first.

    Raises:
        StorageError: they can't be listed.
    """
    for uri in sorted((info.uri for info in files.list(layout.runs, suffixes=(".json",))), reverse=True):
        try:
            record: dict[str, Any] = json.loads(files.read(uri))
        except (FetchError, ValueError):
            continue
        yield record
