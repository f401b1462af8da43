"""A cache of graphs that take long to make, on disk, shared by all processes of a machine.

A graph is a folder with a name of its own. It is written beside its place and then renamed, and read only if its hashes are
right. New versions of a library or of weights leave graphs behind that nobody reads again, so those that were not used for
longest are deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from pipeline.log import log
from pipeline.models.failures import first_line

T = TypeVar("T")

MAX_BYTES = 4 * 2**30
"""Size of the folder. The largest graph, BEN2's, has 0.4 GB."""


HASHES = "sha256.json"
"""File of a graph with the SHA-256 of all its other files."""


def read_cached(cache: Path, name: str, write: Callable[[Path], None], read: Callable[[Path], T], make: Callable[[], T]) -> T:
    """Return what ``read`` makes of a graph's folder. A graph that cannot be read is replaced once, for all processes.

    Readers hold no lock, so another process may delete a graph between the check of its hashes and ``read``.

    Args:
        cache: As for ``cached``.
        name: As for ``cached``.
        write: As for ``cached``.
        read: Reads the graph from its folder. OSError and RuntimeError say that it cannot be used.
        make: Makes the same without a cache. Called if the cache cannot be written, or the new graph cannot be read either.
    """
    for _ in range(2):
        folder = cached(cache, name, write)
        if folder is None:
            return make()
        found = _identity(folder)
        try:
            return read(folder)
        except (OSError, RuntimeError) as error:
            log.warning(f"cannot use the graph {folder} ({first_line(error)}); it is made again")
            _remove(folder, found)
    return make()


def _identity(folder: Path) -> int | None:
    """Return the number of a folder on its disk, which differs after it was replaced; None if it is missing."""
    with suppress(OSError):
        return folder.stat().st_ino
    return None


def _remove(folder: Path, found: int | None) -> None:
    """Delete a graph, unless another process has replaced it since. Errors are ignored: the cache may be read-only."""
    with suppress(OSError), FileLock(f"{folder}.lock"):
        if found is not None and _identity(folder) == found:
            shutil.rmtree(folder)


def cached(cache: Path, name: str, write: Callable[[Path], None]) -> Path | None:
    """Return the folder of a graph. If it is not in the cache, write it there, in one process at a time.

    Args:
        cache: The folder of all graphs.
        name: A hash of everything that the graph depends on.
        write: Writes the graph's files into an empty folder.

    Returns:
        None if the cache cannot be written; the log says so.
    """
    folder = cache / name
    if _is_intact(folder):
        mark_used(folder)
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not _is_intact(folder):
                _save(folder, write)
                trim(cache, folder)
    except OSError as error:
        log.warning(f"cannot cache graphs in {cache} ({error}); each process makes its own")
        return None
    return folder


def _save(folder: Path, write: Callable[[Path], None]) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        write(partial)
        (partial / HASHES).write_text(json.dumps(_hashes(partial)), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_intact(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / HASHES).read_text(encoding="utf-8")) == _hashes(folder))
    except (OSError, ValueError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in folder.iterdir():
        if path.name != HASHES:
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


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
        with suppress(Timeout, OSError), FileLock(f"{graph}.lock", timeout=0):  # a locked one is being made
            shutil.rmtree(graph)
            total -= size


def _used_at(graph: Path) -> float:
    try:
        return graph.stat().st_mtime
    except OSError:
        return time.time()


def _bytes(graph: Path) -> int:
    size = 0
    with suppress(OSError):  # another process may delete it meanwhile
        for path in graph.rglob("*"):
            size += path.stat().st_size
    return size
