"""SIGTERM and Ctrl-C: a run says so, leaves things tidy and is gone within seconds, whatever it is doing.

Schedulers kill what hasn't ended some seconds after SIGTERM (``ray job stop`` after three), and a Python handler runs only
when the main thread gets to it, where an exception may land anywhere inside foreign code. So nothing is unwound: the signal
wakes a thread, which tidies up and ends the process. Ray's processes on this machine die with it, a cluster's workers for it
when they miss it; what was committed stays, and what was not is done by the next run.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import Stopped

TIDY_S = 2.0
"""How long tidying may take: with a store that doesn't answer, the process ends all the same."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalHandler:
    """What is to be done when a signal ends this process. ``install`` makes it happen; without it nothing does.

    Args:
        say: tells the user, with the error that the process ends with.
    """

    def __init__(self, say: Callable[[Stopped], None]) -> None:
        self.say = say
        self._tidy: Callable[[str], None] | None = None
        self._wake, self._notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(self._wake, True)
        self._leaving = threading.Event()

    def install(self) -> None:
        """From now on. Only the main thread may call it."""
        for number in SIGNALS:
            signal.signal(number, _nothing)
        # Written by the interpreter's C code at once, whichever Python handler is in force: Ray puts its own on SIGTERM.
        signal.set_wakeup_fd(self._notify, warn_on_full_buffer=False)
        self._stderr = os.dup(2)
        threading.Thread(target=self._wait, name="stopping", daemon=True).start()

    @contextmanager
    def on_exit(self, tidy: Callable[[str], None]) -> Iterator[None]:
        """While this holds, ``tidy`` is called with the reason before the process ends, from another thread."""
        self._tidy = tidy
        try:
            yield
        finally:
            self.wait_if_leaving()
            self._tidy = None

    def wait_if_leaving(self) -> None:
        """The main thread must not end the process, with another exit code, while the signal's thread is at it."""
        if self._leaving.is_set():
            threading.Event().wait()

    def _wait(self) -> None:
        while True:
            number = os.read(self._wake, 1)[0]
            if number in SIGNALS:
                self._leave(Stopped(f"stopped by {signal.Signals(number).name}; the same command continues"))

    def _leave(self, error: Stopped) -> None:
        self._leaving.set()
        last = threading.Timer(TIDY_S + 0.5, os._exit, (error.exit_code,))  # stderr may be a pipe that nobody reads
        last.daemon = True
        last.start()
        if self._tidy is not None:
            tidier = threading.Thread(target=self._tidy, args=(str(error),), daemon=True)
            tidier.start()
            tidier.join(TIDY_S)
        with suppress(OSError, ValueError):
            os.dup2(self._stderr, 2)  # while Ray starts it leads nowhere
            self.say(error)
            sys.stderr.flush()
        os._exit(error.exit_code)


def _nothing(_number: int, _frame: Any) -> None:
    """A Python handler must be in force for the wakeup to be written."""
