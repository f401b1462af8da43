"""Time a call repeatedly, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def time_calls(
    work: Callable[[], object],
    *,
    for_s: float = 0.0,
    min_calls: int = 1,
    max_calls: int = 1000,
    warm_up: bool = True,
    device: str = "cpu",
) -> list[float]:
    """Return the seconds of every call.

    Args:
        work: The call.
        for_s: Seconds after which no further call starts.
        min_calls: Calls to make even if they take longer than ``for_s``.
        max_calls: Calls to make at most.
        warm_up: Make one more call first, which does not count.
        device: On ``cuda`` a call ends when the GPU has finished the work.
    """

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    if warm_up:
        work()
        wait()
    times: list[float] = []
    while len(times) < min_calls or (sum(times) < for_s and len(times) < max_calls):
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return times
