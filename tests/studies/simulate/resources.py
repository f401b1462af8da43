"""Resources that a simulated run waits for: the object store's request limits and the driver; and the queue of events."""

from __future__ import annotations

import heapq
import random

PUTS_S, GETS_S = 3500.0, 5500.0
"""Requests per second that one partition of S3 accepts."""

SPLIT_AFTER_S = 1800.0
"""Seconds of throttling after which S3 splits a partition: 30 to 60 minutes in practice."""


class TokenBucket:
    """Permissions that arrive at ``rate`` per second; unused ones are kept for ``burst_s`` seconds."""

    def __init__(self, rate: float, burst_s: float = 1.0) -> None:
        self.rate, self.burst_s = rate, burst_s
        self.free_at = -burst_s
        """Time at which all permissions given out so far have arrived."""

    def take(self, now: float, count: float) -> float:
        """Return the time at which the last of ``count`` permissions arrives. Requests wait in order of arrival."""
        self.free_at = max(self.free_at, now - self.burst_s) + count / self.rate
        return max(now, self.free_at)


class Store:
    """The object store's limit for one kind of request, over names that it may split into partitions.

    A fresh bucket has one partition. After ``split_after_s`` of throttling every partition is split in two, as long as there
    are no more partitions than prefixes: names with a common prefix stay together.

    Args:
        rate: Requests per second and partition.
        prefixes: Prefixes over which a hash spreads the names.
        partitions: Partitions at the start; more than one in a bucket that has seen such a load before.
    """

    def __init__(
        self, rate: float, prefixes: int = 256, partitions: int = 1, split_after_s: float = SPLIT_AFTER_S, seed: int = 0
    ) -> None:
        self.rate, self.prefixes, self.split_after_s = rate, prefixes, split_after_s
        self.partitions = [TokenBucket(rate) for _ in range(min(prefixes, partitions))]
        self.throttled_s, self.last_request = 0.0, 0.0
        self.requests = 0
        self.random = random.Random(seed)

    def take(self, now: float, count: int) -> float:
        """Return the time at which ``count`` requests, spread by a hash, have all been accepted."""
        self.requests += count
        partitions = len(self.partitions)
        each, rest = divmod(count, partitions)
        start = self.random.randrange(partitions)
        latest = now
        for number in range(partitions if each else rest):
            partition = self.partitions[(start + number) % partitions]
            latest = max(latest, partition.take(now, each + (number < rest)))
        self._count_throttling(now, latest)
        return latest

    def _count_throttling(self, now: float, latest: float) -> None:
        since, self.last_request = now - self.last_request, max(now, self.last_request)
        if latest <= now:
            return
        self.throttled_s += max(0.0, min(since, 60.0))
        if self.throttled_s >= self.split_after_s and 2 * len(self.partitions) <= self.prefixes:
            self.throttled_s = 0.0
            free_at = [partition.free_at for partition in self.partitions]
            self.partitions = [TokenBucket(self.rate) for _ in range(2 * len(free_at))]
            for number, partition in enumerate(self.partitions):
                before = free_at[number // 2]
                partition.free_at = now + (before - now) / 2 if before > now else before


class Driver:
    """Ray's driver: it handles one task after the other."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.busy_s = 0.0

    def handle(self, now: float, seconds: float) -> float:
        """Return the time at which work of this length, queued now, is done."""
        self.free_at = max(self.free_at, now) + seconds
        self.busy_s += seconds
        return self.free_at


class Events:
    """Future events, the earliest first; events at the same time in the order in which they were added."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, int, tuple[int, ...]]] = []
        self.count = 0

    def add(self, when: float, kind: int, *facts: int) -> None:
        self.count += 1
        heapq.heappush(self.heap, (when, self.count, kind, facts))

    def pop(self) -> tuple[float, int, tuple[int, ...]]:
        when, _, kind, facts = heapq.heappop(self.heap)
        return when, kind, facts
