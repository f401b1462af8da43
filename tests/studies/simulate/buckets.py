"""The object store's limits: requests a second on every partition, which it splits when there have long been too many."""

from __future__ import annotations

import heapq
import random

PUTS_S, GETS_S = 3500.0, 5500.0
"""Requests that one partition of S3 takes a second."""

SPLIT_AFTER_S = 1800.0
"""S3 takes 30 to 60 minutes of too many requests to split a partition."""


class Bucket:
    """Permissions that come in at a rate; what isn't used is kept for ``burst_s`` seconds."""

    def __init__(self, rate: float, burst_s: float = 1.0) -> None:
        self.rate, self.burst_s = rate, burst_s
        self.free_at = -burst_s
        """When all that was given out so far will have come in."""

    def take(self, now: float, count: float) -> float:
        """When the last of so many permissions is there; requests stand in line in the order they came."""
        self.free_at = max(self.free_at, now - self.burst_s) + count / self.rate
        return max(now, self.free_at)


class Store:
    """One kind of request, over names that can be split into at most ``prefixes`` partitions.

    A fresh bucket has one partition. While requests wait, time adds up; after ``split_after_s`` of it every partition is
    split in two, as far as names allow: those with a common beginning can't be told apart.

    Args:
        partitions: there from the start, in a bucket that has seen such a load before.
    """

    def __init__(
        self, rate: float, prefixes: int = 256, partitions: int = 1, split_after_s: float = SPLIT_AFTER_S, seed: int = 0
    ) -> None:
        self.rate, self.prefixes, self.split_after_s = rate, prefixes, split_after_s
        self.buckets = [Bucket(rate) for _ in range(min(prefixes, partitions))]
        self.crowded_s, self.looked_at = 0.0, 0.0
        self.waited = 0
        self.asked = 0
        self.random = random.Random(seed)

    def take(self, now: float, count: int) -> float:
        """When so many requests, of names that are spread by a hash, have all been let through."""
        self.asked += count
        partitions = len(self.buckets)
        each, rest = divmod(count, partitions)
        start = self.random.randrange(partitions)
        latest = now
        for place in range(partitions if each else rest):
            number = each + (place < rest)
            latest = max(latest, self.buckets[(start + place) % partitions].take(now, number))
        self._watch(now, latest)
        return latest

    def _watch(self, now: float, latest: float) -> None:
        since, self.looked_at = now - self.looked_at, max(now, self.looked_at)
        if latest <= now:
            return
        self.waited += 1
        self.crowded_s += max(0.0, min(since, 60.0))
        if self.crowded_s >= self.split_after_s and 2 * len(self.buckets) <= self.prefixes:
            self.crowded_s = 0.0
            queued = [bucket.free_at for bucket in self.buckets]
            self.buckets = [Bucket(self.rate) for _ in range(2 * len(queued))]
            for place, bucket in enumerate(self.buckets):
                bucket.free_at = now + (queued[place // 2] - now) / 2 if queued[place // 2] > now else queued[place // 2]


class Line:
    """One who serves one after the other: the driver."""

    def __init__(self) -> None:
        self.free_at = 0.0
        self.busy_s = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When it is done with this."""
        self.free_at = max(self.free_at, now) + seconds
        self.busy_s += seconds
        return self.free_at


class Events:
    """What happens when, the earliest first; at the same time in the order of arrival."""

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, int, tuple[int, ...]]] = []
        self.count = 0

    def add(self, when: float, what: int, *facts: int) -> None:
        self.count += 1
        heapq.heappush(self.heap, (when, self.count, what, facts))

    def next(self) -> tuple[float, int, tuple[int, ...]]:
        when, _, what, facts = heapq.heappop(self.heap)
        return when, what, facts
