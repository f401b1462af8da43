"""Merge small index parts, since each part costs every reader a request.

A run merges its parts while it goes on, so that a killed run leaves few of them, too. A merged part is written before its
pieces are deleted. An interruption at any moment leaves rows twice, of which ``reconcile`` keeps those of the merged part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import pyarrow as pa

from pipeline.errors import PipelineError
from pipeline.log import log
from pipeline.output.index import map_parts, read_part, release_arrow_memory, write_part
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo

MERGED_BYTES = 4 * 1024 * 1024
"""Approximate size of a merged part: 12,000 rows. Twice the size takes 90 MiB more memory in the driver."""

SMALL_BYTES = MERGED_BYTES // 8
"""Size below which a part is merged. Larger ones stay, so that a nightly run rewrites little."""

MAX_SMALL_PARTS = 1
"""Small parts that an index keeps when a run has ended."""

CHECK_EVERY = 64
"""Parts of a run until its index is listed again, to see whether there is enough to merge."""

DELETE_THREADS = 16
"""Parts that are deleted at the same time. Not all stores have a request that deletes many."""


def compact(output: Output, *, above: int = MAX_SMALL_PARTS) -> int:
    """Merge all small parts once there are more than ``above``.

    Returns:
        The number of parts that were merged.

    Raises:
        StorageError: A part cannot be read, written or removed.
    """
    small = _small_parts(output, ())
    return sum(_merge(output, group) for group in _groups(small)) if len(small) > above else 0


def compact_full(output: Output, check: Callable[[], None], keep: Collection[str] = ()) -> int:
    """Merge as many small parts as give parts of the full size. The rest stays, and is merged when more have come.

    Args:
        output: The output. Other processes may add parts meanwhile.
        check: Called before a part is written and before its pieces are deleted. What it raises ends the work.
        keep: URIs of parts that are not merged.

    Returns:
        The number of parts that were merged.

    Raises:
        StorageError: A part cannot be read, written or removed.
    """
    *full, _rest = _groups(_small_parts(output, keep))
    return sum(_merge(output, group, check) for group in full)


class Compactor:
    """Compact an index from a thread while a run adds parts to it. Use it as a context manager.

    Only the holder of the lease may do this, and nothing else may move or delete parts meanwhile. If it fails, the run goes on
    without it: the parts are merged when the run ends.

    Args:
        output: The output of the run.
        check: Raises if the run has lost its lease.
        keep: URIs of parts that are not merged, since the run still reads them.
    """

    def __init__(self, output: Output, check: Callable[[], None], keep: Collection[str] = ()) -> None:
        self._output, self._check, self._keep = output, check, frozenset(keep)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="compaction")
        self._parts = 0
        self._running: Future[bool] | None = None

    def __enter__(self) -> Compactor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown()
        if kind is None and self._running is not None:
            self._running.result()

    def part_added(self) -> None:
        """Count a committed part, and begin to compact if it is time. Never waits."""
        self._parts += 1
        if self._parts < CHECK_EVERY or (self._running is not None and not self._running.done()):
            return
        if self._running is None or self._running.result():
            self._parts, self._running = 0, self._pool.submit(self._compact)

    def _compact(self) -> bool:
        """Return whether to go on."""
        try:
            compact_full(self._output, self._check, self._keep)
        except PipelineError as error:
            log.warning(f"the index is not compacted before the run ends: {error}")
            return False
        return True


def _small_parts(output: Output, keep: Collection[str]) -> list[FileInfo]:
    return [part for part in output.parts() if part.size < SMALL_BYTES and part.uri not in keep]


def _groups(parts: Iterable[FileInfo]) -> Iterator[list[FileInfo]]:
    """Yield parts that give a merged part of the full size together. The last group may be smaller."""
    group: list[FileInfo] = []
    size = 0
    for part in parts:
        if size + part.size > MERGED_BYTES:
            yield group
            group, size = [], 0
        group.append(part)
        size += part.size
    yield group


def _merge(output: Output, group: list[FileInfo], check: Callable[[], None] = lambda: None) -> int:
    """Merge parts into one, and return their number; 0 if they cannot be merged."""
    tables = list(map_parts(lambda part: read_part(part, output.files, None), group))
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # a manifest's column has changed its type
        return 0
    check()
    merged = write_part(output, table)
    del tables, table
    release_arrow_memory()
    check()
    with ThreadPoolExecutor(DELETE_THREADS) as pool:
        list(pool.map(output.files.delete, [part.uri for part in group if part.uri != merged]))
    return len(group)
