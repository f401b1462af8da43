"""Watches a run from outside: what every process of it holds, once a second. Linux only."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

ROLES = {
    "model": ("ray::MapWorker",),
    "ledger": ("ray::InMemoryLedger",),
    "Ray's own": ("ray::_StatsActor", "ray::_AutoscalingCoordinatorActor", "ray::ActorLocationTracker"),
    "tasks": ("ray::",),  # reading, decoding, finishing and committing take turns in one pool of processes
}
"""By what Ray writes into its processes' titles; the first that fits."""

PROGRAMS = {"raylet": "raylet", "gcs_server": "gcs"}


class Sample(NamedTuple):
    """One process at one moment."""

    seconds: float
    items: int
    """Committed by then."""
    role: str
    pid: int
    rss_mib: float
    heap_mib: float
    """What the process has allocated for itself (the kernel's RssAnon): without code, and without the object store, of which
    RSS and even USS count the pages that a process has touched."""
    descriptors: int
    sockets: int
    threads: int
    store_mib: float
    """The whole object store, the same for all processes."""
    spill_requests: int
    """Since the start, of the whole object store."""


class Watch:
    """Use as a context manager around the life of a run; ``samples`` grows meanwhile.

    Args:
        driver: process id of the run.
        items: how many are committed now.
    """

    def __init__(self, driver: int, items: Callable[[], int], every_s: float = 1.0) -> None:
        self.driver, self.items, self.every_s = driver, items, every_s
        self.samples: list[Sample] = []
        self._roles: dict[int, str] = {}
        self._state: Path | None = None
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Watch:
        self._watching = self._pool.submit(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with self._pool:
            self._watching.result()  # a watch that broke has seen nothing

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._over.wait(self.every_s):
            seconds, items = time.monotonic() - started, self.items()
            store = self._store()
            for process in self._family():
                try:
                    role = self._role(process)
                    self.samples.append(Sample(round(seconds, 2), items, role, process.pid, *held(process), *store))
                except (psutil.Error, OSError):
                    continue  # it has just ended

    def _family(self) -> Iterator[psutil.Process]:
        try:
            driver = psutil.Process(self.driver)
            yield driver
            yield from driver.children(recursive=True)
        except psutil.NoSuchProcess:
            return

    def _role(self, process: psutil.Process) -> str:
        """An actor stays what it is; what has no title yet may become anything."""
        known = self._roles.get(process.pid)
        if known is not None:
            return known
        words = process.cmdline()
        title, program = " ".join(words), Path(words[0]).name if words else ""
        if program == "raylet" and self._state is None:
            # A file that the raylet writes anew every ten seconds; to ask Ray itself costs seconds of a core each time.
            logs = re.search(r"--log_dir=(\S+)", title)
            self._state = Path(logs[1]) / "debug_state.txt" if logs else None
        role = "driver" if process.pid == self.driver else PROGRAMS.get(program)
        role = role or next((role for role, starts in ROLES.items() if title.startswith(starts)), "Ray's own")
        if role not in ("tasks", "Ray's own"):
            self._roles[process.pid] = role
        return role

    def _store(self) -> tuple[float, int]:
        """Object store in use, in MiB, and requests to spill."""
        try:
            text = self._state.read_text() if self._state else ""
        except OSError:
            text = ""
        total, free = (re.search(rf'"{name}":.*?object_store_memory: \[?(\d+)', text) for name in ("total", "available"))
        spilled = re.search(r"cumulative spill requests: (\d+)", text)
        used = (int(total[1]) - int(free[1])) / 10_000 / 2**20 if total and free else 0.0
        return round(used, 2), int(spilled[1]) if spilled else 0


def held(process: psutil.Process) -> tuple[float, float, int, int, int]:
    """Memory in MiB, in all and of its own; open descriptors, those of them that are sockets; threads.

    Raises:
        psutil.Error, OSError: it has ended.
    """
    proc = Path(f"/proc/{process.pid}")
    kinds = [_kind(entry) for entry in os.scandir(proc / "fd")]
    sockets = sum(kind.startswith("socket:") for kind in kinds)
    status = dict(re.findall(r"^(\w+):\s+(\d+)", (proc / "status").read_text(), re.MULTILINE))
    if "RssAnon" not in status:
        raise psutil.ZombieProcess(process.pid)
    rss_mib, heap_mib = (round(int(status[name]) / 1024, 2) for name in ("VmRSS", "RssAnon"))
    return rss_mib, heap_mib, len(kinds), sockets, int(status["Threads"])


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return os.readlink(entry.path)  # noqa: PTH115  thousands of them
    except FileNotFoundError:
        return ""
