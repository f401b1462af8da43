"""Log a run: a progress bar on a terminal, JSON lines otherwise."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

log = logging.getLogger("matteline")
"""Logger of the package. ``extra={"facts": {...}}`` adds fields to a JSON line."""

JSON_EVERY_S = 5.0
"""Seconds between two progress lines, and between two that say what is still being waited for."""

MAX_REPEATS = 100
"""Different warnings that are remembered in order not to repeat them."""

T = TypeVar("T")

MOST_NAMED = 1000
"""Failed items per error code that a run names in its log. The index has all of them."""


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_CONTROLS |= {code: f"\\u{code:04x}" for code in (*_TURNING, *range(0xD800, 0xE000))}
"""Characters that move the cursor, separate lines, or turn the order of a line around; halves of characters, which no terminal
can show."""


class SafeConsole(Console):
    """A terminal on which ids, paths and file names are only text: ``_CONTROLS`` are shown as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, and escape what is not Rich's own control sequence."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=segment.text.translate(_CONTROLS))


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object per line: time, level, event, and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of JSON."""
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
    """Adds facts to every record."""

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self.facts = facts

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the facts. Never drops a record."""
        record.facts = self.facts | getattr(record, "facts", {})
        return True


class _Repeats(logging.Filter):
    """Drops warnings that were logged before. Remembers the last ``MAX_REPEATS`` of them."""

    def __init__(self) -> None:
        super().__init__()
        self._texts: dict[str, None] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if record.levelno != logging.WARNING:
            return True
        text = record.getMessage()
        is_new = text not in self._texts
        self._texts.pop(text, None)
        self._texts[text] = None
        if len(self._texts) > MAX_REPEATS:
            del self._texts[next(iter(self._texts))]
        return is_new


@contextmanager
def without_repeated_warnings() -> Iterator[None]:
    """Log each warning once inside this block, as what is done in it is done again and again."""
    dropping = _Repeats()
    log.addFilter(dropping)
    try:
        yield
    finally:
        log.removeFilter(dropping)


@contextmanager
def facts_in_every_line(**facts: Any) -> Iterator[None]:
    """Add facts to every record that any thread logs inside this block."""
    adding = Facts(facts)
    log.addFilter(adding)
    try:
        yield
    finally:
        log.removeFilter(adding)


def _is_for_people(record: logging.LogRecord) -> bool:
    """Return whether a terminal shows a record. Single items are hidden: the table of failures at the end has them."""
    return record.levelno >= logging.WARNING or "item_id" not in getattr(record, "facts", {})


def set_up_logging(*, verbose: bool = False) -> None:
    """Send the package's log to stderr: text on a terminal, JSON lines otherwise."""
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=SafeConsole(stderr=True), show_path=False, show_level=verbose)
        handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))
        if not verbose:
            handler.addFilter(_is_for_people)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
    log.handlers = [handler]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


@contextmanager
def waiting_for(what: str, *, at_once: bool = True) -> Iterator[None]:
    """Log what is going on, so that no long silence is unexplained: at the start, and every ``JSON_EVERY_S`` until the end.

    Args:
        what: A participle: ``loading the model``.
        at_once: False logs nothing if it takes less than ``JSON_EVERY_S``.
    """
    began = time.monotonic()
    if at_once:
        log.info(what)
    with _every(JSON_EVERY_S, lambda: log.info(f"still {what}, {time.monotonic() - began:.0f} s so far")):
        yield


@contextmanager
def _every(seconds: float, work: Callable[[], object]) -> Iterator[None]:
    """Do something small again and again on a thread of its own, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class PassProgress:
    """Shows how much of a pass over many things is done: a bar on a terminal, otherwise a JSON line every ``JSON_EVERY_S``.

    Args:
        what: What is done with what: ``listing objects``.
        total: Number of things, at least roughly; 0 if it is unknown.
        unit: What the things are, to show how many are done per second: ``frames``.
    """

    def __init__(self, what: str, total: int, unit: str = "") -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._began = self._logged_at = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> PassProgress:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=SafeConsole(stderr=True), transient=True)
            self._bar.add_task(self.what, total=self.total or None, speed="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """Count things that are done."""
        self.done += count
        now = time.monotonic()
        if self._bar is not None:
            speed = f"{self.done / max(1e-3, now - self._began):.1f} {self.unit}/s" if self.unit else ""
            self._bar.update(self._bar.task_ids[0], completed=self.done, speed=speed)
        elif now - self._logged_at >= JSON_EVERY_S:
            self._logged_at = now
            per_s = self.done / (now - self._began)
            log.info(self.what, extra={"facts": {"done": self.done, "total": self.total, "per_s": round(per_s, 1)}})

    def counting(self, things: Iterable[T]) -> Iterator[T]:
        """Count things when the next one is taken."""
        for thing in things:
            yield thing
            self.add(1)

    def of_rows(self, tables: Iterable[Any]) -> Iterator[Any]:
        """Count the rows of Arrow tables as they are taken."""
        for table in tables:
            self.add(table.num_rows)
            yield table


class RunCounters:
    """Counts the items of a run as they are committed, and shows progress. Use as a context manager.

    On a terminal: a bar with items per second, failures, items to review and the time left. Otherwise: a JSON line every
    ``JSON_EVERY_S``.

    Args:
        total: Items to do.
        bar: False shows no bar on a terminal.
    """

    def __init__(self, total: int, *, bar: bool = True) -> None:
        self.total, self._bar = total, bar
        self.counts = {"ok": 0, "review": 0, "failed": 0}
        self.failures: dict[str, dict[str, Any]] = {}
        """A count and an example by error code."""
        self.expected = (0, 0.0, 0.0)
        """Ok items with a calibrated quality; mean and variance of the number of them with a Dice below 0.95."""
        self.seconds = 0.0
        """Seconds of work in all passes, from when the machines are ready to the last ``tick``."""
        self.actors = 0.0
        """Actors at work now; 0 if unknown."""
        self.actor_s = 0.0
        """Seconds of all actors together, busy or not."""
        self.model_s = 0.0
        """Seconds that the model worked on committed items."""
        self.frames = 0
        """Frames of videos that were written."""
        self.store_bytes = 0
        """Bytes that the stages passed through Ray's object store; known at the end of a pass."""
        self._named: dict[str, int] = {}
        self._lines = ExitStack()
        self._ticked: float | None = None
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> RunCounters:
        if self._bar and sys.stderr.isatty():
            self._progress = Progress(
                SpinnerColumn(),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=SafeConsole(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=self.total, facts="starting")
        else:
            self._lines.enter_context(_every(JSON_EVERY_S, self._log))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.close()
        if self._progress is not None:
            self._progress.stop()

    @property
    def done(self) -> int:
        """Items committed by this run so far."""
        return sum(self.counts.values())

    @property
    def frames_per_s(self) -> float:
        """Frames of videos written per second of work."""
        return self.frames / self.seconds if self.seconds else 0.0

    @property
    def items_per_s(self) -> float:
        """Items committed per second of work."""
        return self.done / self.seconds if self.seconds else 0.0

    @contextmanager
    def working(self, actors: float) -> Iterator[None]:
        """Count the time inside this block as work of ``actors`` actors."""
        self.actors, self._ticked = actors, time.monotonic()
        try:
            yield
        finally:
            self.tick()
            self._ticked = None

    def tick(self) -> None:
        """Add the time since the last tick."""
        if self._ticked is not None:
            now = time.monotonic()
            self.seconds += now - self._ticked
            self.actor_s += self.actors * (now - self._ticked)
            self._ticked = now

    def add(self, ok: int, review: int, failed: int) -> None:
        """Add the items of one index part, and the time until now."""
        self.tick()
        for status, count in (("ok", ok), ("review", review), ("failed", failed)):
            self.counts[status] += count
        if self._progress is not None and self._task is not None:
            speed = f"{self.items_per_s:.2f} items/s" + (f"  {self.frames_per_s:.1f} frames/s" if self.frames else "")
            facts = f"{speed}  {self.counts['failed']} failed  {self.counts['review']} to review"
            self._progress.update(self._task, completed=self.done, facts=facts)

    def _log(self) -> None:
        """Log one line of progress, also if nothing was committed since the last."""
        speed = self.items_per_s
        eta_s = round((self.total - self.done) / speed) if speed else None
        facts = {**self.counts, "total": self.total, "items_per_s": round(speed, 3), "eta_s": eta_s}
        if self.frames:
            facts |= {"frames": self.frames, "frames_per_s": round(self.frames_per_s, 2)}
        log.info("progress", extra={"facts": facts})

    def add_part(self, part: Mapping[str, Any]) -> None:
        """Add one index part, by what the commit stage says about it."""
        self.frames += part["frames"]
        self.add(part["ok"], part["review"], part["failed"])
        items, mean, variance = (part[f"expected_{name}"] for name in ("items", "mean", "variance"))
        self.expected = (self.expected[0] + items, self.expected[1] + mean, self.expected[2] + variance)
        self.model_s += part["model_s"]
        self.add_failures(json.loads(part["failures"]))

    def add_failures(self, failures: dict[str, dict[str, Any]]) -> None:
        """Add the failures of one index part, and log the items that it names."""
        for code, entry in failures.items():
            known = self.failures.setdefault(code, {key: entry[key] for key in ("item_id", "detail")} | {"count": 0})
            known["count"] += entry["count"]
            for item_id, detail in entry["named"][: MOST_NAMED - self._named.get(code, 0)]:
                self._named[code] = self._named.get(code, 0) + 1
                log.info("item failed", extra={"facts": {"item_id": item_id, "code": code, "detail": detail}})
