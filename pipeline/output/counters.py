"""Count the items of a run while it goes on, and show its progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from pipeline.log import SafeConsole, log, repeating
from pipeline.output.time_left import FramesLeft, seconds_left

MOST_NAMED = 1000
"""Failed items per error code that a run names in its log. The index has all of them."""


class RunCounters:
    """Counts the items of a run as they are committed, and shows progress. Use as a context manager.

    On a terminal: a bar with items per second, failures, items to review and the time left. Otherwise: a JSON line every
    ``JSON_EVERY_S``.

    Args:
        total: Items to do.
        videos: Those of them that are videos.
        bar: False shows no bar on a terminal.
    """

    def __init__(self, total: int, videos: int = 0, *, bar: bool = True) -> None:
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
        self.left = FramesLeft(videos)
        """Frames of videos that are to be written."""
        self.is_on_videos = False
        """Whether the work is that of videos, which come after the pictures."""
        self._video_s = 0.0
        self.doing = ""
        """What the run waits for until the first items are committed, such as ``loading the model``."""
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
                console=SafeConsole(stderr=True),
                transient=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=self.total, facts="starting")
        else:
            self._lines.enter_context(repeating(self._log))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.close()
        if self._progress is not None:
            self._progress.stop()

    def until_the_first(self, doing: str) -> None:
        """Say what is being done until the first items are committed: a participle."""
        self.doing = doing
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, facts=doing)

    @property
    def done(self) -> int:
        """Items committed by this run so far."""
        return sum(self.counts.values())

    @property
    def frames_per_s(self) -> float:
        """Frames of videos written per second of work on videos."""
        return self.frames / self._video_s if self._video_s else 0.0

    @property
    def items_per_s(self) -> float:
        """Items committed per second of work."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left, estimated; None if that is not known."""
        left = self.left
        return seconds_left(self.total - self.done, self.items_per_s, left.videos, left.frames, self.frames_per_s)

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
            self._video_s += now - self._ticked if self.is_on_videos else 0.0
            self.actor_s += self.actors * (now - self._ticked)
            self._ticked = now

    def add(self, ok: int, review: int, failed: int) -> None:
        """Add the items of one index part, and the time until now."""
        self.tick()
        self.doing = ""
        for status, count in (("ok", ok), ("review", review), ("failed", failed)):
            self.counts[status] += count
        if self._progress is not None and self._task is not None:
            speed = f"{self.items_per_s:.2f} items/s" + (f"  {self.frames_per_s:.1f} frames/s" if self.frames else "")
            left = "" if self.eta_s is None else f"  {timedelta(seconds=round(self.eta_s))} left"
            facts = f"{speed}  {self.counts['failed']} failed  {self.counts['review']} to review{left}"
            self._progress.update(self._task, completed=self.done, facts=facts)

    def _log(self) -> None:
        """Log one line of progress, also if nothing was committed since the last."""
        speed = self.items_per_s
        eta_s = None if self.eta_s is None else round(self.eta_s)
        facts: dict[str, Any] = {**self.counts, "total": self.total, "items_per_s": round(speed, 3), "eta_s": eta_s}
        if self.frames:
            facts |= {"frames": self.frames, "frames_per_s": round(self.frames_per_s, 2)}
        if self.doing:
            facts["doing"] = self.doing
        log.info("progress", extra={"facts": facts})

    def add_part(self, part: Mapping[str, Any]) -> None:
        """Add one index part, by what the commit stage says about it."""
        self.frames += part["frames"]
        self.left.add(part)
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
