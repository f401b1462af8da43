"""What a run says while it works: a live line for a person, JSON lines for a machine."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

log = logging.getLogger("matteline")
"""The package's logger. ``extra={"facts": {...}}`` adds fields to a JSON line."""

JSON_EVERY_S = 10.0

MOST_NAMED = 1000
"""Failed items of an error code that a run names in its log; the index has them all."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **facts,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class Facts(logging.Filter):
    """Adds facts to all that is logged."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts

    def filter(self, record: logging.LogRecord) -> bool:
        record.facts = self.facts | getattr(record, "facts", {})
        return True


@contextmanager
def facts_in_every_line(**facts: Any) -> Iterator[None]:
    """While this holds, whichever thread logs."""
    adding = Facts(facts)
    log.addFilter(adding)
    try:
        yield
    finally:
        log.removeFilter(adding)


def _is_for_people(record: logging.LogRecord) -> bool:
    """A person has the bar, and the table of failures at the end; single items are for machines."""
    return record.levelno >= logging.WARNING or "item_id" not in getattr(record, "facts", {})


def set_up_logging(*, verbose: bool = False) -> None:
    """Send this package's log to stderr: readable on a terminal, JSON lines otherwise."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=verbose)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
        if not verbose:
            handler.addFilter(_is_for_people)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
    log.handlers = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


class RunCounters:
    """Counts a run's items as they are committed, and shows them. Use as a context manager.

    On a terminal: a bar with items a second, failed, review and the time left. Otherwise: a JSON line now and then.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.counts = {"ok": 0, "review": 0, "failed": 0}
        self.failures: dict[str, dict[str, Any]] = {}
        """By error code: a count and an example."""
        self.seconds = 0.0
        """At work, all passes together: from where the machines are there to the last ``tick``."""
        self.actors = 0.0
        """Of the model, at work now; 0 where nobody knows."""
        self.actor_s = 0.0
        """Seconds of all of them together, busy or not."""
        self.model_s = 0.0
        """Seconds that they took for what was committed."""
        self.store_bytes = 0
        """What the stages handed one another through Ray's object store; known at the end of each pass."""
        self._named: dict[str, int] = {}
        self._said = time.monotonic()
        self._ticked: float | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> RunCounters:
        self._said = time.monotonic()
        if sys.stderr.isatty():
            self._progress = Progress(
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=self.total, facts="starting")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    @property
    def done(self) -> int:
        """Items committed by this run so far."""
        return sum(self.counts.values())

    @property
    def items_per_s(self) -> float:
        """Items committed a second of work."""
        return self.done / self.seconds if self.seconds else 0.0

    @contextmanager
    def working(self, actors: float) -> Iterator[None]:
        """A pass with so many copies, for as long as nobody sets another number: its time counts."""
        self.actors, self._ticked = actors, time.monotonic()
        try:
            yield
        finally:
            self.tick()
            self._ticked = None

    def tick(self) -> None:
        """Count the time since the last look."""
        if self._ticked is not None:
            now = time.monotonic()
            self.seconds += now - self._ticked
            self.actor_s += self.actors * (now - self._ticked)
            self._ticked = now

    def add(self, ok: int, review: int, failed: int) -> None:
        """Count the items of one index part, and the time until now."""
        self.tick()
        for status, count in (("ok", ok), ("review", review), ("failed", failed)):
            self.counts[status] += count
        if self._progress is not None and self._task is not None:
            facts = f"{self.items_per_s:.2f} items/s  {self.counts['failed']} failed  {self.counts['review']} to review"
            self._progress.update(self._task, completed=self.done, facts=facts)
        elif time.monotonic() - self._said >= JSON_EVERY_S:
            self._said = time.monotonic()
            left_s = (self.total - self.done) / max(1e-9, self.items_per_s)
            facts_json = {**self.counts, "total": self.total, "items_per_s": round(self.items_per_s, 3), "eta_s": round(left_s)}
            log.info("progress", extra={"facts": facts_json})

    def add_failures(self, failures: dict[str, dict[str, Any]]) -> None:
        """Count the failures of one index part, and name those items in the log that the part names."""
        for code, entry in failures.items():
            seen = self.failures.setdefault(code, {key: entry[key] for key in ("item_id", "detail")} | {"count": 0})
            seen["count"] += entry["count"]
            for item_id, detail in entry["named"][: MOST_NAMED - self._named.get(code, 0)]:
                self._named[code] = self._named.get(code, 0) + 1
                log.info("item failed", extra={"facts": {"item_id": item_id, "code": code, "detail": detail}})
