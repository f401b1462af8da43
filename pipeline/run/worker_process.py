"""The worker process of a small run, seen from the driver. The other end is ``worker``.

Importing this module takes little time, so that a worker can start before the driver has read the manifest.
"""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.log import log
from pipeline.run.budget import no_progress
from pipeline.run.gpus import is_small

if TYPE_CHECKING:
    from pipeline.config.job import Job
    from pipeline.run.crash_ledger import InMemoryLedger

MAX_LINE = 300
"""Characters of what a worker printed, in a message."""


class WorkerDied(Exception):
    """The worker process ended; the text says how."""


class Worker:
    """A worker process, and a thread that listens to it."""

    def __init__(self, ledger: InMemoryLedger | None = None) -> None:
        self.started_for = _surroundings()
        self.ledger, self.has_begun, self.has_worked = ledger, False, False
        self._inbox: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._is_ready = False
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        started: Future[subprocess.Popen[bytes]] = Future()
        # Linux ends the worker when the thread that started it ends (prctl(2)). Therefore it gets a thread of its own.
        threading.Thread(target=self._start_and_listen, args=(started,), name="worker", daemon=True).start()
        self.process = started.result()

    def send(self, message: Any) -> None:
        """Send a message. A dead worker is noticed by ``receive``."""
        self.has_worked = True
        assert self.process.stdin is not None
        with suppress(OSError):
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()

    def receive(self, timeout_s: float) -> tuple[str, Any]:
        """Return the next ``taken``, ``part`` or ``end``.

        Raises:
            WorkerDied: The process ended.
            Stopped: There was no message for so long.
            PipelineError: The worker raised it.
            RuntimeError: A bug; the text is the worker's traceback.
        """
        try:
            kind, content = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise no_progress(timeout_s) from None
        if kind == "refused":
            raise content
        if kind == "broken":
            raise RuntimeError(content)
        if kind == "died":
            status = self.process.wait()
            raise WorkerDied(_how(status) + ("" if self._is_ready else self._why()))
        return kind, content

    def close(self) -> None:
        """End the process, unless it belongs to the parent of this one."""
        if self.started_for[0] == os.getpid():
            self.process.kill()
            self.process.wait()

    def _why(self) -> str:
        """Return the last line that the worker printed before it was ready, such as an import error; empty without one."""
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:MAX_LINE]}" if last else ""

    def _start_and_listen(self, started: Future[subprocess.Popen[bytes]]) -> None:
        # -P: nothing is imported from the folder that the user happens to be in.
        command = [sys.executable, "-P", "-m", "pipeline.run.worker"]
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed)
        except OSError as error:
            started.set_exception(error)
            return
        assert process.stdout is not None
        started.set_result(process)
        try:
            # The pipe ends with the process, at worst within a message.
            with suppress(EOFError, pickle.UnpicklingError):
                while True:
                    self._take(*pickle.load(process.stdout))
        finally:
            self._inbox.put(("died", None))

    def _take(self, kind: str, content: Any) -> None:
        self._is_ready = True
        if kind == "ledger":
            method, keys = content
            getattr(self.ledger, method)(keys)
            self.has_begun = True
        elif kind == "log":
            level, text, facts = content
            log.log(level, text, extra={"facts": facts})
        else:
            self._inbox.put((kind, content))


_idle: list[Worker] = []
"""At most one worker that has finished its work."""

IDLE_S = 60.0
"""Seconds after which a worker without work ends. Its model stays loaded until then, for the next run of this process."""

_idle_s: float | None = IDLE_S
"""Seconds that it waits for more work; None for as long as this process lasts."""


def idle_s() -> float | None:
    """Return the seconds that a worker waits for more work; None for as long as this process lasts."""
    return _idle_s


@contextmanager
def kept_worker() -> Iterator[None]:
    """Keep the idle worker and its model for the next run inside this block, however long that takes."""
    global _idle_s  # noqa: PLW0603  belongs to the idle worker above
    before, _idle_s = _idle_s, None
    try:
        yield
    finally:
        _idle_s = before
        _end_idle()


def start_ahead(job: Job) -> None:
    """Start a worker before the manifest is read, if the run will probably need one. ``end_unused`` ends one that it does not.

    That is a manifest on this machine, and an output that does not exist yet.
    """
    if is_small(job.compute, 1) and Path(job.manifest).exists() and not Path(job.output.uri).exists():
        give_back(Worker())


def end_unused() -> None:
    """End a worker that was started ahead for a run that turned out to be large."""
    while _idle and not _idle[-1].has_worked:
        _idle.pop().close()


def take_worker(ledger: InMemoryLedger) -> Worker:
    """Return a worker for the caller alone: the idle one if its process id and environment are still right, or a new one."""
    with suppress(IndexError):
        worker = _idle.pop()
        if worker.process.poll() is None and worker.started_for == _surroundings():
            worker.ledger, worker.has_begun = ledger, False
            return worker
        worker.close()
    return Worker(ledger)


def give_back(worker: Worker) -> None:
    """Keep a worker that has finished its work for the next run of this process."""
    if _idle:
        worker.close()
    else:
        _idle.append(worker)


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().close()


def _surroundings() -> tuple[int, dict[str, str]]:
    """Return process id and environment. A worker is used again only by the same process with the same credentials."""
    return os.getpid(), {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}  # OpenCV changes it


def _how(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"
