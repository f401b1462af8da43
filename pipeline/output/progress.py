"""How far a run is, for whoever looks from outside: one small object in its output, rewritten while it lives.

It says what the run record will say, as far as it is known, and how fast things go now. A thread writes it, so that a run whose
first items take an hour, or that hangs, is told from one that is gone. Not the lease's thread: a store that is slow to take
the one object must not keep it from renewing the other.
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

from pipeline.errors import WriteError
from pipeline.log import log
from pipeline.output.layout import Layout
from pipeline.output.run_record import RunRecord
from pipeline.storage.files import Files

RUNNING = "running"
"""The state of a run that has not said how it ended; afterwards it is the run record's outcome."""

WINDOW_S = 120.0
"""How far back the recent speed looks, and two beats at least."""

BEAT_S = 5.0
"""Between two beats at most: Ray forgets a gauge that nobody has set for two of its reports, 20 s."""


class Progress:
    """``progress/<run id>.json``: written at the start, every so often, and when the run is over. Use as a context manager.

    Args:
        record: what is told; others change it meanwhile.
        owner: who holds the run's lease.
        every_s: between two writes.
        beat: called with what there is to tell, every ``BEAT_S`` or oftener.
    """

    def __init__(
        self,
        record: RunRecord,
        layout: Layout,
        files: Files,
        *,
        owner: str,
        every_s: float,
        beat: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.record, self._uri, self._files = record, layout.progress(record.run_id), files
        self._about = {"host": socket.gethostname(), "owner": owner, "every_s": every_s}
        self._beat = beat
        self._seen: deque[tuple[float, int]] = deque()
        self._stop, self._writing, self._looking, self._warned = threading.Event(), threading.Lock(), threading.Lock(), False
        # Two, so that a store that is slow doesn't keep the metrics from saying so.
        often = min(BEAT_S, every_s)
        self._threads = [
            threading.Thread(target=self._keep, args=pair, name="progress", daemon=True)
            for pair in ((self._write, every_s), (self._say, often))
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
        """Tell how the run ended, which its record knows by now."""
        self._stop.set()
        self._write()
        self._say()

    def _keep(self, do: Callable[[], None], every_s: float) -> None:
        while True:
            do()
            if self._stop.wait(every_s):
                return

    def _say(self) -> None:
        self._beat(self.facts())

    def _write(self) -> None:
        with self._writing:  # one on its way must not overtake the end
            if self._stop.is_set() and self.record.outcome is None:
                return
            facts = self.facts()
            try:
                self._files.write(self._uri, json.dumps(facts, ensure_ascii=False).encode())
            except WriteError as error:
                if not self._warned:
                    log.warning(f"the run's progress can't be written, so `matteline top` is blind: {error}")
                self._warned = True

    def facts(self) -> dict[str, Any]:
        """What the object says now."""
        record = self.record
        told = {key: value for key, value in asdict(record).items() if key not in ("versions", "drift", "store_mib_per_item")}
        done = record.ok + record.review + record.failed
        recent = self._recent(done)
        speed = record.items_per_s if recent is None else recent
        left = max(0, record.items - record.done_before - done)
        return {
            **told,
            "state": record.outcome or RUNNING,
            "left": left,
            "recent_items_per_s": recent if recent is None else round(recent, 3),
            "eta_s": round(left / speed) if speed and record.outcome is None else None,
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **self._about,
        }

    def _recent(self, done: int) -> float | None:
        """Items a second of the last two minutes; None in the first beat."""
        with self._looking:
            now = time.monotonic()
            self._seen.append((now, done))
            while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:
                self._seen.popleft()
            then, before = self._seen[0]
        return max(0.0, (done - before) / (now - then)) if now > then else None
