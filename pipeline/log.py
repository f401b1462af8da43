"""Log a run: a progress bar on a terminal, JSON lines otherwise."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TextIO, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

log = logging.getLogger("matteline")
"""Logger of the package. ``extra={"facts": {...}}`` adds fields to a JSON line."""

JSON_EVERY_S = 5.0
"""Seconds between two progress lines, and between two that say what is still being waited for."""

MAX_REPEATS = 100
"""Different warnings that are remembered in order not to repeat them."""

T = TypeVar("T")

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_TURNING = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
_CONTROLS |= {code: f"\\u{code:04x}" for code in (*_TURNING, *range(0xD800, 0xE000))}
"""Characters that move the cursor, separate lines, or turn the order of a line around; halves of characters, which no terminal
can show."""


class SafeConsole(Console):
    """A terminal on which ids, paths and file names are only text: ``_CONTROLS`` are shown as escapes.

    If nobody reads it any more (``| head``), it is silent, and the command goes on to its own end and exit code.
    """

    def on_broken_pipe(self) -> None:
        """Print nothing from now on, instead of ending the process, and let the interpreter's last flush go nowhere."""
        self.quiet = True
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)

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


@contextmanager
def logging_to(stream: TextIO) -> Iterator[None]:
    """Write the package's log to another stream inside this block."""
    consoles = [one.console for one in log.handlers if isinstance(one, RichHandler)]
    streams = [one for one in log.handlers if isinstance(one, logging.StreamHandler)]
    before = [one.setStream(stream) for one in streams], [one.file for one in consoles]
    for console in consoles:
        console.file = stream
    try:
        yield
    finally:
        for handler, kept in zip(streams, before[0], strict=True):
            handler.setStream(kept)
        for console, kept in zip(consoles, before[1], strict=True):
            console.file = kept


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


class Waiting:
    """Something that is being waited for."""

    def __init__(self, what: str) -> None:
        self.what, self.note = what, ""
        """``note`` says how much is done, such as ``12 of 380 MB``."""
        self._began = time.monotonic()

    def count(self, done: int, unit: str, total: int | None = None) -> None:
        """Note how much is done. ``unit`` is the plural of what is counted."""
        self.note = f"{done:,} {unit}" if total is None else f"{done:,} of {total:,} {unit}"

    def __str__(self) -> str:
        """Say what is still going on."""
        note = f": {self.note}" if self.note else ""
        return f"still {self.what}{note}, {time.monotonic() - self._began:.0f} s so far"


class _Waits(threading.local):
    """Holds the waits of the current thread, innermost last."""

    def __init__(self) -> None:
        self.stack: list[Waiting] = []


_waits = _Waits()


@contextmanager
def waiting_for(what: str, *, at_once: bool = True) -> Iterator[Waiting]:
    """Log what is going on, so that no long silence is unexplained: at the start, and every ``JSON_EVERY_S`` until the end.

    Of several waits inside each other only the innermost is logged. ``note`` of the yielded object is part of the line.

    Args:
        what: A participle: ``loading the model``.
        at_once: False logs nothing if it takes less than ``JSON_EVERY_S``.
    """
    waiting, stack = Waiting(what), _waits.stack

    def tell() -> None:
        if stack and stack[-1] is waiting:
            log.info(str(waiting))

    if at_once:
        log.info(what)
    stack.append(waiting)
    try:
        with repeating(tell):
            yield waiting
    finally:
        stack.remove(waiting)


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Do something small every ``JSON_EVERY_S`` on a thread of its own, until the block ends."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(JSON_EVERY_S):
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
