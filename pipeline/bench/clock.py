"""Timing."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(work: Callable[[], object], *, for_s: float, least: int = 1, most: int = 1000) -> list[float]:
    """How long each repetition took, after a first one that doesn't count; never empty.

    Args:
        for_s: repeated until so much time has passed,
        least, most: but not less, and not more often than this.
    """
    work()
    found: list[float] = []
    while len(found) < least or (sum(found) < for_s and len(found) < most):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found
