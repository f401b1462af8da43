"""Run work on threads with bounded memory, and count the CPUs that this process may use.

Imports nothing from the package.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(pool: Executor, step: Callable[[T], R], items: Iterable[T], window: int) -> Iterator[R]:
    """Results in order, with at most ``window`` of them being worked on or waiting: bounded memory."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(step, item))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def local_cpus() -> int:
    """Cores that this process may use: those it is bound to, and no more than its container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores
