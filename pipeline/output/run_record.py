"""The record that a run leaves behind, and the report of an output: its index and its last run."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pipeline.config.sections import Count, Moment, Share, Stored, parse
from pipeline.errors import FetchError, PipelineError, Stopped
from pipeline.log import log
from pipeline.output.counters import RunCounters
from pipeline.output.output import Output
from pipeline.output.summary import Summary, summarise
from pipeline.quality.expectation import Expectation
from pipeline.schema import STATUSES
from pipeline.storage.uris import name

OUTCOMES = {
    0: "complete",
    1: "broken",
    2: "refused",
    3: "over the error budget",
    4: "stopped",
    5: "another run uses this output",
}
"""How a run ended, by its exit code."""

INTERRUPTED = "stopped by Ctrl-C; run the same job again to continue"

ROUND_MARK = "watch-"
"""Marks the ids of runs that are rounds of a watch."""


def ending_of(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message of a run that an error ended."""
    if isinstance(error, PipelineError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):  # a Python caller's Ctrl-C: the command has a SignalHandler
        return Stopped.exit_code, INTERRUPTED
    return 1, type(error).__name__


@dataclass(repr=False)
class RunRecord:
    """Record of a run: ``runs/<run_id>.json``, and what ``pipeline.run`` returns.

    ``outcome``, ``exit_code`` and ``error`` say how it ended. ``ok``, ``review``, ``failed`` and ``failures`` (by error code)
    are of this run, ``items`` is the manifest's number of items, and ``done_before`` the number that earlier runs finished. The
    index counts the items of all runs of the recipe.
    """

    run_id: str
    manifest: str
    recipe: str
    preset: str
    items: int
    done_before: int
    columns: dict[str, str] = field(default_factory=dict)
    """Columns of the manifest that the job names (``columns``), for ``matteline verify``."""
    allow_roots: list[str] = field(default_factory=list)
    """Allowed roots beside the manifest's folder (``storage.allow_roots``), for ``matteline verify``."""
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    finished_at: str | None = None
    seconds: float = 0.0
    ok: int = 0
    review: int = 0
    failed: int = 0
    derived: int = 0
    """Items that were finished before and got an output or rendition that they lacked."""
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)
    expected_below: dict[str, Any] | None = None
    """Number of ok items that are expected to have a Dice below 0.95, with a 95 % interval; None without calibrated ones."""
    items_per_s: float = 0.0
    frames: int = 0
    """Frames of videos that were written. A repeated task counts again."""
    frames_per_s: float = 0.0
    videos_left: int = 0
    """Videos that are not finished."""
    frames_left: int | None = None
    """Frames of these videos that are to be written, estimated by headers; None if no length is known."""
    actors: int | None = None
    """Actors of the model when the last pass started."""
    gpus_per_actor: float = 0.0
    actor_hours: float | None = None
    """Hours of all actors together, busy or idle, from the moment the machines are ready; None if their number is unknown."""
    idle_share: float | None = None
    """Share of the actor hours without work, which includes loading the model."""
    items_per_gpu_hour: float | None = None
    """None without GPUs."""
    store_mib_per_item: float | None = None
    """MiB per item that the stages passed on through Ray's object store."""
    dashboard: str | None = None
    """URL of Ray's dashboard during the run; None without one."""
    drift: dict[str, Any] | None = None
    """Drift from the accepted baseline (``output.baseline.drift``); None without a baseline."""
    exit_code: int | None = None
    outcome: str | None = None
    error: str | None = None
    versions: dict[str, str] = field(
        default_factory=lambda: {
            "python": platform.python_version(),
            **{name: version(name) for name in ("matteline", "ray", "torch", "onnxruntime", "pyarrow")},
        }
    )

    def __repr__(self) -> str:
        counts = f"{self.ok} ok, {self.review} review, {self.failed} failed, {self.done_before} done before"
        return f"<RunRecord {self.run_id}: {self.outcome or 'running'}, {counts}, of {self.items} items>"

    def count(self, counters: RunCounters) -> None:
        """Copy the counts of the items committed so far."""
        self.ok, self.review, self.failed = (counters.counts[status] for status in STATUSES)
        # New dicts each time: a thread may be encoding the old ones.
        self.failures = {code: dict(entry) for code, entry in counters.failures.items()}
        self.expected_below = Expectation(*counters.expected).facts()
        self.items_per_s = round(counters.items_per_s, 3)
        self.frames, self.frames_per_s = counters.frames, round(counters.frames_per_s, 2)
        self.videos_left, self.frames_left = counters.left.videos, counters.left.frames
        if counters.actor_s and counters.done:
            self.actor_hours = counters.actor_s / 3600
            self.idle_share = round(max(0.0, 1 - counters.model_s / counters.actor_s), 3)
            gpu_hours = self.actor_hours * self.gpus_per_actor
            self.items_per_gpu_hour = round(counters.done / gpu_hours) if gpu_hours else None
        if counters.store_bytes and counters.done:
            self.store_mib_per_item = round(counters.store_bytes / 2**20 / counters.done, 3)

    def close(self, exit_code: int, error: str | None = None) -> None:
        """Record how the run ended."""
        self.exit_code, self.outcome, self.error = exit_code, OUTCOMES.get(exit_code, "broken"), error
        finished = datetime.now(UTC)
        self.finished_at = finished.isoformat(timespec="seconds")
        self.seconds = round((finished - datetime.fromisoformat(self.started_at)).total_seconds(), 1)

    def write(self, output: Output) -> None:
        """Write the record.

        Raises:
            WriteError: It cannot be written.
        """
        output.files.write(output.layout.run(self.run_id), json.dumps(asdict(self), indent=2, ensure_ascii=False).encode())


class Failures(Stored):
    """The failures of one error code in a run record."""

    count: Count
    item_id: str
    detail: str


class DriftFacts(Stored):
    """Those fields of the drift in a run record that are shown."""

    drifted: bool
    said: str
    against: str


class RunFacts(Stored):
    """The fields of a run record or progress object of any version that are read."""

    run_id: str
    manifest: str
    items: Count
    done_before: Count
    ok: Count
    review: Count
    failed: Count
    seconds: Moment
    outcome: str | None
    exit_code: int | None
    failures: dict[str, Failures]
    recipe: str | None = None
    columns: dict[str, str] | None = None
    allow_roots: list[str] | None = None
    started_at: str | None = None
    finished_at: str | None = None
    error: str | None = None
    expected_below: dict[str, Any] | None = None
    items_per_s: Moment | None = None
    frames: Count | None = None
    frames_per_s: Moment | None = None
    videos_left: Count | None = None
    frames_left: Count | None = None
    gpus_per_actor: Moment | None = None
    actor_hours: Moment | None = None
    idle_share: Share | None = None
    items_per_gpu_hour: Moment | None = None
    dashboard: str | None = None
    drift: DriftFacts | None = None


def parse_facts(kind: type[RunFacts], data: bytes) -> dict[str, Any]:
    """Return a run record or progress object as it was written, after its fields were checked.

    Raises:
        ValueError: It is damaged.
    """
    parse(kind, data)
    facts: dict[str, Any] = json.loads(data)
    return facts


def speed_of(run: Mapping[str, Any]) -> str:
    """Describe a run record's time and speed in words. Older records lack some of the fields."""
    words = [f"{run['seconds']:g} s"]
    if run.get("items_per_s"):
        words.append(f"{run['items_per_s']:g} items/s")
    if run.get("frames"):
        words.append(f"{run['frames_per_s']:g} frames/s")
    if run.get("items_per_gpu_hour"):
        words.append(f"{run['items_per_gpu_hour']:,} items per GPU hour")
    if run.get("idle_share") is not None:
        words.append(f"model idle {run['idle_share']:.0%} of the time")
    return ", ".join(words)


@dataclass(frozen=True)
class RecipeReport:
    """An output with the statistics of its index and the record of its last run."""

    output: Output
    summary: Summary
    last_run: dict[str, Any] | None


def report_of(output: Output) -> RecipeReport:
    """Return the report of one output.

    Raises:
        StorageError: The index cannot be read.
    """
    return RecipeReport(output, summarise(output), last_run(output))


def last_run(output: Output) -> dict[str, Any] | None:
    """Return the record of the latest run; None if there is none."""
    return next(records(output), None)


def delete_old_rounds(output: Output, keep: int) -> None:
    """Delete records and progress of all rounds of watches but the last ones, which would be thousands per week.

    Raises:
        StorageError: They cannot be listed or deleted.
    """
    for folder in (output.layout.runs, output.layout.progresses):
        rounds = sorted(info.uri for info in output.files.list(folder, suffixes=(".json",)) if ROUND_MARK in name(info.uri))
        for uri in rounds[:-keep]:
            output.files.delete(uri)


def records(output: Output) -> Iterator[dict[str, Any]]:
    """Yield the records of all runs, the latest first. Damaged ones are left out, with a warning.

    Raises:
        StorageError: They cannot be listed.
    """
    for uri in sorted((info.uri for info in output.files.list(output.layout.runs, suffixes=(".json",))), reverse=True):
        try:
            yield parse_facts(RunFacts, output.files.read(uri))
        except FetchError:
            continue
        except ValueError as error:
            log.warning(f"the run record {uri} is left out, because it is damaged: {error}")
