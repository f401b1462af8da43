"""Run work on threads with bounded memory, and count the CPUs that this process may use.

Imports nothing from the package.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")


class Each(Protocol):
    """Do a step for each unit of work, here or on other machines, and yield the tables of all of them in any order."""

    def __call__(self, step: Callable[[T], Iterator[Any]], units: Sequence[T]) -> Iterator[Any]:
        """Yield the tables that the steps yield. A step yields at least one."""


def in_this_process(step: Callable[[T], Iterator[Any]], units: Sequence[T]) -> Iterator[Any]:
    """Do a step for each unit of work, one after the other (``Each``)."""
    for unit in units:
        yield from step(unit)


def map_ahead(
    pool: Executor,
    step: Callable[[T], R],
    items: Iterable[T],
    window: int,
    *,
    weight: Callable[[T], float] = lambda _: 0.0,
    max_weight: float = 0.0,
) -> Iterator[R]:
    """Yield ``step(item)`` in order, computed ahead with bounded memory.

    Args:
        pool: Threads that run the steps.
        step: Called for every item.
        items: Consumed as results are taken.
        window: Maximum number of results that are computed or waiting.
        weight: Cost of an item, such as its size in bytes.
        max_weight: Maximum weight of these results together. A single item may weigh more.
    """
    waiting: deque[tuple[float, Future[R]]] = deque()
    for item in items:
        cost = weight(item)
        while waiting and (len(waiting) >= window or sum(one for one, _ in waiting) + cost > max_weight):
            yield waiting.popleft()[1].result()
        waiting.append((cost, pool.submit(step, item)))
    while waiting:
        yield waiting.popleft()[1].result()


def ahead(items: Iterable[T], *, wait: bool = False) -> Generator[T]:
    """Yield the source's items, fetching one ahead in another thread.

    Args:
        items: The source.
        wait: Closing the iterator waits for that thread, so that what the source uses can be closed.
    """
    source, end = iter(items), object()
    pool = ThreadPoolExecutor(1)
    coming = pool.submit(next, source, end)
    try:
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield cast(T, item)
    finally:
        pool.shutdown(wait=wait)
        del coming  # its error would lead to this frame and back, and keep what the source uses until Python collects garbage


def local_cpus() -> int:
    """Return the CPUs that this process may use: its affinity, limited by the container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores
