"""Sample the resources of a run's processes from outside, once per second. Linux only."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

ROLES = {
    "model": "ray::MapWorker",
    "ledger": "ray::InMemoryLedger",
    "Ray's own": ("ray::_StatsActor", "ray::_AutoscalingCoordinatorActor", "ray::ActorLocationTracker"),
    "tasks": "ray::",  # reading, decoding, writing and committing share one pool of processes
}
"""Role by the beginning of the title that Ray gives its processes; the first match counts."""

PROGRAMS = {"raylet": "raylet", "gcs_server": "gcs"}


class Sample(NamedTuple):
    """One process at one moment."""

    seconds: float
    items: int
    """Items committed so far."""
    role: str
    pid: int
    heap_mib: float
    """Memory that the process has allocated (the kernel's RssAnon), without code and without the object store. RSS and even
    USS count the store's pages that a process has touched."""
    descriptors: int
    sockets: int
    threads: int
    store_mib: float
    """Used memory of the object store, the same for all processes."""
    spill_requests: int
    """Spill requests of the object store since the start."""


class Watch:
    """A context manager around the life of a run; ``samples`` grows meanwhile.

    Args:
        drivers: Process ids of the runs; ``follow`` adds some.
        items: Returns the number of committed items.
        every_s: Seconds between two samples.
    """

    def __init__(self, drivers: Iterable[int], items: Callable[[], int], every_s: float = 1.0) -> None:
        self.drivers, self.items, self.every_s = list(drivers), items, every_s
        self.samples: list[Sample] = []
        self._roles: dict[int, str] = {}
        self._state: Path | None = None
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def follow(self, driver: int) -> None:
        """Sample the processes of a further run, too."""
        self.drivers.append(driver)
        self._roles, self._state = {}, None

    def __enter__(self) -> Watch:
        self._watching = self._pool.submit(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            self._watching.result()  # raises what the thread raised

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(self.every_s):
            seconds, items = time.monotonic() - started, self.items()
            store = self._store()
            for process in self._family():
                try:
                    role = self._role(process)
                    self.samples.append(Sample(round(seconds, 2), items, role, process.pid, *resources(process), *store))
                except (psutil.Error, OSError):
                    continue  # the process has just ended

    def _family(self) -> Iterator[psutil.Process]:
        for pid in tuple(self.drivers):
            with suppress(psutil.NoSuchProcess):
                driver = psutil.Process(pid)
                yield driver
                yield from driver.children(recursive=True)

    def _role(self, process: psutil.Process) -> str:
        """Return the role. An actor keeps its role; a worker without a title may become anything, so it is not cached."""
        roles = self._roles
        if process.pid in roles:
            return roles[process.pid]
        words = process.cmdline()
        title, program = " ".join(words), Path(words[0]).name if words else ""
        if program == "raylet" and self._state is None:
            # The raylet rewrites this file every ten seconds. Asking Ray itself costs seconds of a core each time.
            logs = re.search(r"--log_dir=(\S+)", title)
            self._state = Path(logs[1]) / "debug_state.txt" if logs else None
        role = "driver" if process.pid in self.drivers else PROGRAMS.get(program)
        role = role or next((role for role, starts in ROLES.items() if title.startswith(starts)), "Ray's own")
        if role not in ("tasks", "Ray's own"):
            roles[process.pid] = role
        return role

    def _store(self) -> tuple[float, int]:
        """Return the used MiB of the object store and its spill requests."""
        try:
            text = self._state.read_text() if self._state else ""
        except OSError:
            text = ""
        total, free = (re.search(rf'"{name}":.*?object_store_memory: \[?(\d+)', text) for name in ("total", "available"))
        spilled = re.search(r"cumulative spill requests: (\d+)", text)
        used = (int(total[1]) - int(free[1])) / 10_000 / 2**20 if total and free else 0.0
        return round(used, 2), int(spilled[1]) if spilled else 0


def resources(process: psutil.Process) -> tuple[float, int, int, int]:
    """Return allocated MiB, open descriptors, the sockets among them, and threads.

    Raises:
        psutil.Error, OSError: The process has ended.
    """
    proc = Path(f"/proc/{process.pid}")
    kinds = [_kind(entry) for entry in os.scandir(proc / "fd")]
    sockets = sum(kind.startswith("socket:") for kind in kinds)
    status = dict(re.findall(r"^(\w+):\s+(\d+)", (proc / "status").read_text(), re.MULTILINE))
    if "RssAnon" not in status:
        raise psutil.ZombieProcess(process.pid)
    return round(int(status["RssAnon"]) / 1024, 2), len(kinds), sockets, int(status["Threads"])


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return os.readlink(entry.path)  # noqa: PTH115  Path is too slow for thousands of them
    except FileNotFoundError:
        return ""
