"""The progress of a run: one small object in its output that is rewritten while the run is alive.

It holds the fields of the run record as far as they are known, and the current speed. A thread of its own writes it, so that a
run whose first items take an hour, or that hangs, can be told from a run that has ended. It is not the lease's thread: a
slow write of this object must not delay the renewal of the lease.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.config.sections import Moment, Time
from pipeline.errors import WriteError
from pipeline.log import log
from pipeline.output.output import Output
from pipeline.output.run_record import RunFacts, RunRecord
from pipeline.output.time_left import seconds_left

RUNNING = "running"
"""State of a run that has not ended. Afterwards the state is the outcome of the run record."""

WINDOW_S = 120.0
"""Seconds over which the recent speed is averaged, and at least two updates."""

BEAT_S = 5.0
"""Maximum seconds between two metric updates: Ray drops a gauge that was not set during two of its reports, 20 s."""


class ProgressFacts(RunFacts):
    """A progress object of any version, as far as it is read."""

    state: str
    updated_at: Time
    every_s: Moment
    recent_items_per_s: Moment | None = None
    recent_frames_per_s: Moment | None = None
    eta_s: Moment | None = None


class Progress:
    """Write ``progress/<run id>.json`` at the start, periodically, and at the end. Use it as a context manager.

    Args:
        record: The run record. Other threads change it meanwhile.
        owner: The holder of the run's lease.
        every_s: Seconds between two writes.
        beat: Called with the same fields at least every ``BEAT_S`` seconds.
    """

    def __init__(
        self,
        record: RunRecord,
        output: Output,
        *,
        owner: str,
        every_s: float,
        beat: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.record, self._uri, self._files = record, output.layout.progress(record.run_id), output.files
        self._constants = {"host": socket.gethostname(), "owner": owner, "every_s": every_s}
        self._beat = beat
        self._history: deque[tuple[float, int, int]] = deque()
        self._stop, self._writing, self._measuring, self._warned = threading.Event(), threading.Lock(), threading.Lock(), False
        # Two threads, so that slow storage does not delay the metrics.
        self._threads = [
            threading.Thread(target=self._repeat, args=pair, name="progress", daemon=True)
            for pair in ((self._write, every_s), (self._update_metrics, min(BEAT_S, every_s)))
        ]

    def __enter__(self) -> Progress:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Write the final state. The record must be closed."""
        self._stop.set()
        self._write()
        self._update_metrics()

    def _repeat(self, step: Callable[[], None], every_s: float) -> None:
        while True:
            step()
            if self._stop.wait(every_s):
                return

    def _update_metrics(self) -> None:
        self._beat(self.facts())

    def _write(self) -> None:
        with self._writing:  # a write in progress must not overtake the final one
            if self._stop.is_set() and self.record.outcome is None:
                return
            facts = self.facts()
            try:
                self._files.write(self._uri, json.dumps(facts, ensure_ascii=False).encode())
            except WriteError as error:
                if not self._warned:
                    log.warning(f"the run's progress cannot be written, so `matteline top` cannot show it: {error}")
                self._warned = True

    def facts(self) -> dict[str, Any]:
        """Return the current content of the object."""
        record = self.record
        fields = {key: value for key, value in asdict(record).items() if key not in ("versions", "drift", "store_mib_per_item")}
        done = record.ok + record.review + record.failed
        recent, recent_frames = self._recent_speeds(done, record.frames)
        speed = record.items_per_s if recent is None else recent
        frames_per_s = record.frames_per_s if recent_frames is None else recent_frames
        left = max(0, record.items - record.done_before - done)
        eta_s = seconds_left(left, speed, record.videos_left, record.frames_left, frames_per_s)
        return {
            **fields,
            "state": record.outcome or RUNNING,
            "left": left,
            "recent_items_per_s": recent if recent is None else round(recent, 3),
            "recent_frames_per_s": recent_frames if recent_frames is None else round(recent_frames, 2),
            "eta_s": round(eta_s) if eta_s is not None and record.outcome is None else None,
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._constants,
        }

    def _recent_speeds(self, done: int, frames: int) -> tuple[float, float] | tuple[None, None]:
        """Return items and frames per second over the last ``WINDOW_S`` seconds; None on the first update."""
        with self._measuring:
            now = time.monotonic()
            self._history.append((now, done, frames))
            while len(self._history) > 2 and now - self._history[1][0] >= WINDOW_S:
                self._history.popleft()
            then, done_then, frames_then = self._history[0]
        if now <= then:
            return None, None
        return max(0.0, (done - done_then) / (now - then)), max(0.0, (frames - frames_then) / (now - then))
