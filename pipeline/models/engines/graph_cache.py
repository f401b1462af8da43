"""Keep the folder of converted graphs small: those that were not used for longest are deleted.

Every new version of a library or of the weights leaves graphs behind that nobody reads again.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

MAX_BYTES = 4 * 2**30
"""Size of the folder. The largest graph, BEN2's, has 0.4 GB."""


def mark_used(graph: Path) -> None:
    """Record that a graph is in use now. A cache that is read-only keeps its times."""
    with suppress(OSError):
        os.utime(graph)


def trim(cache: Path, keep: Path, max_bytes: int = MAX_BYTES) -> None:
    """Delete the graphs that were not used for longest, until all others fit.

    A process that has a deleted graph mapped keeps it until it ends. Errors are ignored: the cache only saves time.

    Args:
        cache: The folder. Each graph is a folder in it, with a lock file beside it.
        keep: A graph that is never deleted.
        max_bytes: Size of all graphs together.
    """
    graphs = {graph: (_used_at(graph), _bytes(graph)) for graph in cache.iterdir() if graph.is_dir()}
    total = sum(size for _, size in graphs.values())
    for graph, (_, size) in sorted(graphs.items(), key=lambda item: item[1]):
        if total <= max_bytes:
            return
        if graph == keep:
            continue
        with suppress(Timeout, OSError), FileLock(f"{graph}.lock", timeout=0):  # a locked one is being made or read
            shutil.rmtree(graph)
            total -= size


def _used_at(graph: Path) -> float:
    try:
        return graph.stat().st_mtime
    except OSError:
        return time.time()


def _bytes(graph: Path) -> int:
    size = 0
    for path in graph.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size
    return size
