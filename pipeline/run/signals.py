"""End a run within seconds of SIGTERM or Ctrl-C, whatever it is doing.

Schedulers kill a process a few seconds after SIGTERM (``ray job stop`` after three). A Python signal handler runs only when the
main thread reaches it, and its exception may be raised inside library code. So nothing is unwound: the signal wakes a thread,
which cleans up and ends the process. Ray's processes end with it. Committed items stay, the next run does the others.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import Stopped

CLEANUP_S = 2.0
"""Seconds that cleaning up may take. With a store that does not answer, the process ends anyway."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalHandler:
    """Ends this process after a signal. ``install`` activates it.

    Args:
        report: Prints the error that the process ends with.
    """

    def __init__(self, report: Callable[[Stopped], None]) -> None:
        self.report = report
        self._cleanup: Callable[[str], None] | None = None
        self._waiting: threading.Event | None = None
        self._changing = threading.Lock()
        self._wake, self._notify = socket.socketpair()  # works on all systems, a pipe not
        self._notify.setblocking(False)
        self._leaving = threading.Event()

    def install(self) -> None:
        """Handle signals from now on. Only the main thread may call this."""
        for number in SIGNALS:
            signal.signal(number, _nothing)
        # The interpreter's C code writes to it at once, whichever Python handler is set: Ray sets its own for SIGTERM.
        signal.set_wakeup_fd(self._notify.fileno(), warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget)
        self._stderr = os.dup(2)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    @contextmanager
    def on_exit(self, cleanup: Callable[[str], None]) -> Iterator[None]:
        """Call ``cleanup`` with the reason, from another thread, before a signal ends the process inside this block."""
        self._cleanup = cleanup
        try:
            yield
        finally:
            self.wait_if_leaving()
            self._cleanup = None

    @contextmanager
    def on_pause(self, asked: threading.Event) -> Iterator[None]:
        """Inside this block, a signal sets ``asked`` instead of ending the process, which then has ``CLEANUP_S`` to end itself.

        If the event is not set when the block is over, the next signal is handled as usual.
        """
        with self._changing:
            self._waiting = asked
        try:
            yield
        finally:
            with self._changing:
                self._waiting = None

    def wait_if_leaving(self) -> None:
        """Block if a signal is ending the process, so that the main thread does not end it with another exit code."""
        if self._leaving.is_set():
            threading.Event().wait()

    def _wait(self) -> None:
        while True:
            number = self._wake.recv(1)[0]
            if number in SIGNALS and not self._end_pause():
                self._leave(Stopped(f"stopped by {signal.Signals(number).name}; run the same command again to continue"))

    def _end_pause(self) -> bool:
        """Return whether the process pauses, and was asked to end itself."""
        with self._changing:
            if self._waiting is None:
                return False
            _exit_soon()  # it may be waiting for a store that does not answer
            self._waiting.set()
            return True

    def _leave(self, error: Stopped) -> None:
        self._leaving.set()
        _exit_soon()  # stderr may be a pipe that nobody reads
        if self._cleanup is not None:
            cleaner = threading.Thread(target=self._cleanup, args=(str(error),), daemon=True)
            cleaner.start()
            cleaner.join(CLEANUP_S)
        with suppress(OSError, ValueError):
            os.dup2(self._stderr, 2)  # while Ray starts, stderr is /dev/null
            self.report(error)
            sys.stderr.flush()
        os._exit(error.exit_code)


def _exit_soon() -> None:
    last = threading.Timer(CLEANUP_S + 0.5, os._exit, (Stopped.exit_code,))
    last.daemon = True
    last.start()


def _forget() -> None:
    """Reset the handlers of a forked process. A signal for it would end its parent, with which it shares the sockets."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _nothing(_number: int, _frame: Any) -> None:
    """Do nothing. A Python handler must be set for the wakeup to be written."""


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Set the handlers of SIGTERM and SIGINT back at the end of the block: Ray sets its own. Other threads set none."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                if handler is not None:  # None: it was set by other code than Python's
                    signal.signal(number, handler)
