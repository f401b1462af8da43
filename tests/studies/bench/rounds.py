"""What is compared is measured alternately: whatever slows the machine down for a while slows all of it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")

ROUNDS = 3


def alternately(works: Mapping[str, Callable[[], T]], rounds: int = ROUNDS) -> dict[str, list[T]]:
    """The works one after the other, and all of them again: by name, what each gave in every round."""
    found: dict[str, list[T]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(work())
    return found


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The work as one that gives its seconds; done once now, so that what happens only once is over."""
    work()

    def again() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return again
