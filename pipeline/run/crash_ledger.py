"""Items that kill the process they are worked on: found, given up, and no harm to their neighbours.

Ray repeats what died with its process, for ever if the process always dies. So every batch is noted in a ledger that
outlives the process, before it is worked on. Whoever gets the batch after a death finds the note and takes its items one by
one; an item that three processes died of (alone, but for the first time) is given up and recorded as failed. Work that takes
longer than its deadline ends its own process: no other means stops a loop in foreign code.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import NoReturn, Protocol, TypeVar

from pipeline.errors import ItemCrashed, ItemError

DEATHS = 3
"""Processes that an item may cost. The first may have died of a neighbour, the second of the machine."""

BROKEN = 70
"""Exit status of a process that ends itself because its GPU is lost."""

STDERR = 2

T = TypeVar("T")


class CrashLedger(Protocol):
    """What has been begun and not ended, by key; outlives the processes that note it."""

    def begin(self, keys: Sequence[str]) -> list[int]:
        """How many processes died of each key. If none did, all are begun now."""

    def begin_alone(self, key: str) -> None:
        """This one is begun now, whatever died of it before."""

    def survived(self, key: str) -> None:
        """This one was worked on alone, and its process lives: only the batch's first death counts against it now."""

    def end(self, keys: Sequence[str]) -> None:
        """These are over, whatever came of them."""


class InMemoryLedger:
    """A ledger in memory. In a run it is an actor of its own; memory is bounded by the work in flight."""

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}

    def begin(self, keys: Sequence[str]) -> list[int]:
        before = [self.begun.get(key, 0) for key in keys]
        if not any(before):
            self.begun |= dict.fromkeys(keys, 1)
        return before

    def begin_alone(self, key: str) -> None:
        self.begun[key] = self.begun.get(key, 0) + 1

    def survived(self, key: str) -> None:
        self.begun[key] = 1

    def end(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.begun.pop(key, None)


class IsolatedBatch:
    """One batch's way through one stage. Without a ledger nothing is noted and nothing has a deadline.

    Args:
        stage: keeps the stages' notes apart.
        item_s: after so many seconds on one item the process ends itself.
    """

    def __init__(self, ledger: CrashLedger | None, stage: str, item_ids: Sequence[str], item_s: float) -> None:
        self.ledger, self.item_s = ledger, item_s
        self.keys = [f"{stage}/{item_id}" for item_id in item_ids]
        # The batch has a note of its own, for processes that die beside the work on any single item.
        self.keys.append(f"{stage} {blake2b(repr(item_ids).encode(), digest_size=16).hexdigest()}")
        *self.deaths, self.tries = [0] * len(self.keys) if ledger is None else ledger.begin(self.keys)
        if ledger is not None and self.alone:
            ledger.begin_alone(self.keys[-1])

    @property
    def alone(self) -> bool:
        """A process died of this batch: ``one`` is the way to go on."""
        return bool(self.tries or any(self.deaths))

    def run_batch(self, work: Callable[[], T]) -> T:
        """Work on the whole batch, which has as long as one item: if that is too short, its items get as long each."""
        with self._deadline():
            return work()

    def one(self, row: int, work: Callable[[], T]) -> T:
        """Work on one item.

        Raises:
            ItemCrashed: too many processes have died of it.
        """
        # Every item may cost two processes when it is alone; what dies more often dies of the batch as such.
        deaths = self.tries if self.tries > DEATHS + 2 * len(self.deaths) else self.deaths[row]
        if deaths >= DEATHS:
            raise ItemCrashed(
                f"{deaths} processes died while they worked on it, or were ended after {self.item_s:g} s "
                "(limits.item_s); the image may crash a library or need more memory than there is. --retry crash tries again"
            )
        if self.ledger is None or not self.alone:
            with self._deadline():
                return work()
        self.ledger.begin_alone(self.keys[row])
        try:
            with self._deadline():
                result = work()
        except ItemError:
            self.ledger.survived(self.keys[row])
            raise
        # Any other error stays noted: it may be about to end the process.
        self.ledger.survived(self.keys[row])
        return result

    def over(self) -> None:
        """The whole batch went through."""
        if self.ledger is not None:
            self.ledger.end(self.keys)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        if self.ledger is None:
            yield
            return
        # A thread of the interpreter's own C code, which ends the process even while foreign code holds Python's lock.
        faulthandler.dump_traceback_later(self.item_s, exit=True, file=STDERR)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def end_process() -> NoReturn:
    """Leave at once, as a crash would: whoever gets the batch next finds it in the ledger."""
    os._exit(BROKEN)
