"""The worker process of a small run: ``python -m pipeline.run.worker``. The other end is ``local``.

Messages are pickles: work and blocks come on stdin, results go to stdout. When stdin closes, the driver has ended.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.log import log
from pipeline.run.crash_ledger import InMemoryLedger
from pipeline.run.stages.process import end_with_parent, keep_pandas_out

OOM_SCORE = "500"
"""Out of 1000. If memory runs out, Linux kills the worker first. The driver survives, and records why."""

Tell = Callable[[str, Any], None]
"""Sends a message to the driver: its kind and content."""


class MirroredLedger(InMemoryLedger):
    """A ledger that sends each entry to the driver before the work starts. The driver's copy survives this process."""

    def __init__(self, started: dict[str, int], tell: Tell) -> None:
        super().__init__(started)
        self._tell = tell

    def begin(self, keys: Sequence[str]) -> list[int]:
        """See ``CrashLedger``."""
        crashes = super().begin(keys)
        self._tell("ledger", ("begin", keys))
        return crashes

    def begin_alone(self, key: str) -> None:
        """See ``CrashLedger``."""
        super().begin_alone(key)
        self._tell("ledger", ("begin_alone", key))

    def survived(self, key: str) -> None:
        """See ``CrashLedger``."""
        super().survived(key)
        self._tell("ledger", ("survived", key))

    def end(self, keys: Sequence[str]) -> None:
        """See ``CrashLedger``."""
        super().end(keys)
        self._tell("ledger", ("end", keys))


def main() -> None:
    """Process the driver's jobs until the driver ends, or sends none for as long as it said with the last one."""
    _end_with_the_driver()
    keep_pandas_out()
    tell = _open_channel()
    log.handlers, log.propagate = [_ToDriver(tell)], False
    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_receive, args=(inbox, tell), daemon=True).start()
    idle_s: float | None = None
    while True:
        try:
            work, started, overlap, level, idle_s = inbox.get(timeout=idle_s)
        except queue.Empty:
            return
        log.setLevel(level)
        try:
            for part in work(_blocks(inbox, tell), MirroredLedger(started, tell), overlap=overlap):
                tell("part", part)
            tell("end", None)
        except PipelineError as error:
            tell("refused", error)
        except BaseException:
            tell("broken", traceback.format_exc())
            raise


def _blocks(inbox: queue.Queue[Any], tell: Tell) -> Iterator[pa.Table]:
    """Yield the blocks of one job. Request another block for each one taken."""
    while (block := inbox.get()) is not None:
        tell("taken", None)
        yield block


def _receive(inbox: queue.Queue[Any], tell: Tell) -> None:
    """Pass on what the driver sends. When it ends, this process ends at once, whatever it is doing.

    A message that cannot be read, such as one of a module that is missing, is an error of the run.
    """
    try:
        while True:
            inbox.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(0)
    except BaseException:
        tell("broken", traceback.format_exc())
        raise


def _open_channel() -> Tell:
    """Take stdout for messages. What libraries print from now on is dropped. Errors of imports have gone to stderr."""
    channel, lock = os.fdopen(os.dup(1), "wb"), threading.Lock()
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)

    def tell(kind: str, content: Any) -> None:
        with lock:
            pickle.dump((kind, content), channel)
            channel.flush()

    return tell


def _end_with_the_driver() -> None:
    """Leave Ctrl-C to the driver, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE, encoding="ascii")


class _ToDriver(logging.Handler):
    """Sends log records to the driver, which formats them as its own."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send the level, the text and the facts."""
        self._tell("log", (record.levelno, record.getMessage(), getattr(record, "facts", {})))


if __name__ == "__main__":
    main()
