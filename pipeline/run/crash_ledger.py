"""Isolate items that crash or hang the process that works on them (poison pills).

Ray retries a task whose process died, without limit. So each batch is entered in a ledger that outlives the process before
work on it starts. The process that gets the batch after a crash finds the entry and runs the items one by one. An item that
has killed three processes is recorded as failed. Work that exceeds its deadline ends its own process, because nothing else
stops a loop in native code.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NoReturn, Protocol, TypeVar

from pipeline.errors import ItemCrashed, ItemError
from pipeline.models.failures import BrokenDevice

MAX_CRASHES = 3
"""Processes that an item may kill. Three, because one death may be another item's fault, and one that of the machine."""

BROKEN_GPU_EXIT = 70
"""Exit status of a process that ends itself because its GPU is lost."""

STDERR = 2

T = TypeVar("T")


class CrashLedger(Protocol):
    """Work that has started and not finished, by key. It outlives the processes that write to it."""

    def begin(self, keys: Sequence[str]) -> list[int]:
        """Return the number of crashes per key. If there are none, enter all keys as started."""

    def begin_alone(self, key: str) -> None:
        """Enter one key as started, whatever crashed on it before."""

    def survived(self, key: str) -> None:
        """Record that this key was run alone without a crash, so that only the first crash of its batch still counts."""

    def end(self, keys: Sequence[str]) -> None:
        """Remove keys whose work is finished."""


class InMemoryLedger:
    """A ledger in memory. A run keeps it in an actor, or in the driver. Its size is bounded by the work in flight."""

    def __init__(self, started: dict[str, int] | None = None) -> None:
        self.started: dict[str, int] = started or {}

    def begin(self, keys: Sequence[str]) -> list[int]:
        """See ``CrashLedger``."""
        crashes = [self.started.get(key, 0) for key in keys]
        if not any(crashes):
            self.started |= dict.fromkeys(keys, 1)
        return crashes

    def begin_alone(self, key: str) -> None:
        """See ``CrashLedger``."""
        self.started[key] = self.started.get(key, 0) + 1

    def survived(self, key: str) -> None:
        """See ``CrashLedger``."""
        self.started[key] = 1

    def end(self, keys: Sequence[str]) -> None:
        """See ``CrashLedger``."""
        for key in keys:
            self.started.pop(key, None)


class IsolatedBatch:
    """One batch in one stage. Without a ledger nothing is recorded, nothing has a deadline, and a lost GPU is raised.

    Args:
        stage: Prefix that separates the entries of different stages.
        item_s: Seconds after which the process ends itself.
    """

    def __init__(self, ledger: CrashLedger | None, stage: str, item_ids: Sequence[str], item_s: float) -> None:
        self.ledger, self.item_s = ledger, item_s
        self._thread = threading.get_ident()
        self.keys = [f"{stage}/{item_id}" for item_id in item_ids]
        # The batch has an entry of its own, for processes that die outside the work on a single item.
        self.keys.append(f"{stage} {blake2b(repr(item_ids).encode(), digest_size=16).hexdigest()}")
        *self.crashes, self.batch_crashes = [0] * len(self.keys) if ledger is None else ledger.begin(self.keys)
        if ledger is not None and self.one_by_one:
            ledger.begin_alone(self.keys[-1])

    @property
    def one_by_one(self) -> bool:
        """Return True if a process crashed on this batch, so that its items must be run one by one."""
        return bool(self.batch_crashes or any(self.crashes))

    def run_items(self, work: Callable[[Sequence[int]], Sequence[T]]) -> list[T | ItemError]:
        """Run the items together, or after a crash one by one, in which case an item that fails gives its error.

        Args:
            work: Called with the numbers of some items. Returns a result for each.
        """
        if not self.one_by_one:
            return list(self.run_batch(lambda: work(range(len(self.crashes)))))
        return [self._alone(number, work) for number in range(len(self.crashes))]

    def _alone(self, number: int, work: Callable[[Sequence[int]], Sequence[T]]) -> T | ItemError:
        try:
            return self.run_one(number, lambda: work([number])[0])
        except ItemError as error:
            return error

    def run_batch(self, work: Callable[[], T]) -> T:
        """Run the complete batch with the deadline of one item. If that is too short, the items then get as long each."""
        with self._guarded():
            return work()

    def run_one(self, row: int, work: Callable[[], T]) -> T:
        """Run one item.

        Raises:
            ItemCrashed: Too many processes have crashed on it.
        """
        # An item may kill two processes when it is run alone. More crashes than that are the batch's own.
        crashes = self.batch_crashes if self.batch_crashes > MAX_CRASHES + 2 * len(self.crashes) else self.crashes[row]
        if crashes >= MAX_CRASHES:
            raise ItemCrashed(
                f"{crashes} processes crashed on it or exceeded limits.item_s={self.item_s:g} s; the image may crash a library "
                "or need more memory than is available. Retry it with --retry crash"
            )
        if self.ledger is None or not self.one_by_one:
            with self._guarded():
                return work()
        self.ledger.begin_alone(self.keys[row])
        try:
            with self._guarded():
                result = work()
        except ItemError:
            self.ledger.survived(self.keys[row])
            raise
        # Any other exception leaves the entry as it is: it may be about to end the process.
        self.ledger.survived(self.keys[row])
        return result

    def beat(self) -> None:
        """Give the work its full time again, because it has come further. Threads that help it may call this, too."""
        if self.ledger is not None:
            _deadlines.extend(self.item_s, self._thread)

    def rest(self) -> None:
        """Set no deadline until the next ``beat``, for a step that has a timeout of its own."""
        if self.ledger is not None:
            _deadlines.cancel()

    def kept(self) -> None:
        """Forget former crashes but one: a part of the work is kept for a later attempt, so it cannot end where they did."""
        if self.ledger is not None:
            for key in self.keys:
                self.ledger.survived(key)

    def finish(self) -> None:
        """Remove the entries of a batch that is complete."""
        if self.ledger is not None:
            self.ledger.end(self.keys)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """End this process at the deadline, or if its GPU is lost: the next one finds the batch in the ledger."""
        if self.ledger is None:
            yield
            return
        self._thread = threading.get_ident()
        _deadlines.start(self.item_s)
        try:
            yield
        except BrokenDevice:
            end_process()
        finally:
            _deadlines.cancel()


class _Deadlines:
    """The deadlines of this process's threads: the process ends itself at the first one.

    faulthandler's thread is written in C and ends the process even while native code holds the GIL. It has one timer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, float] = {}

    def start(self, seconds: float) -> None:
        """Set the deadline of this thread."""
        with self._lock:
            self._ends[threading.get_ident()] = time.monotonic() + seconds
            self._arm()

    def extend(self, seconds: float, thread: int) -> None:
        """Set the deadline of a thread. Another thread can only move one that is set: the work may have ended meanwhile."""
        with self._lock:
            if thread == threading.get_ident() or thread in self._ends:
                self._ends[thread] = time.monotonic() + seconds
                self._arm()

    def cancel(self) -> None:
        """Remove the deadline of this thread."""
        with self._lock:
            self._ends.pop(threading.get_ident(), None)
            self._arm()

    def _arm(self) -> None:
        if self._ends:
            left_s = max(0.001, min(self._ends.values()) - time.monotonic())
            faulthandler.dump_traceback_later(left_s, exit=True, file=STDERR)
        else:
            faulthandler.cancel_dump_traceback_later()


_deadlines = _Deadlines()


def end_process() -> NoReturn:
    """End this process at once, as a crash would. The next process that gets the batch finds it in the ledger."""
    os._exit(BROKEN_GPU_EXIT)
