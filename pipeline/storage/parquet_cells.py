"""Read single cells of Parquet files: the bytes of pictures, without unpacking them.

A cell can't be read alone: its column of its row group is read forward, in batches, to its row. Rows are mostly asked for in
their order, so a few readers are kept open, each with its last rows.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import FetchError
from pipeline.storage.backend import Content, check_size
from pipeline.storage.errors import is_corruption, library_errors
from pipeline.storage.members import Cell
from pipeline.storage.uris import redact

READERS = 4
"""Row groups that a process keeps open."""

KEPT_BYTES = 64 * 2**20
"""Bytes of the last rows that a reader keeps, besides the last batch: threads don't ask in exactly their order."""

BATCH_BYTES, MAX_BATCH_ROWS = 4 * 2**20, 64
"""Bytes of a batch, about, and its rows, at most."""

BUFFER_BYTES = 4 * 2**20
"""Bytes per request."""

_readers: OrderedDict[Hashable, _Reader] = OrderedDict()
_lock = threading.Lock()


def read_cell(cell: Cell, version: Hashable, etag: str, open_input: Callable[[], Any], max_bytes: int | None) -> Content:
    """Read one cell.

    Args:
        cell: The place.
        version: Changes whenever the content of the file may have changed.
        etag: Version of the file, which is that of its cells.
        open_input: Opens the file for pyarrow.
        max_bytes: Bytes of the cell, at most; None for any.

    Raises:
        FetchError: The file is damaged or has no such cell, or the cell is empty or too large.
        OSError: The storage fails.
    """
    key = (os.getpid(), version, cell.container, cell.column)
    with _lock:
        reader = _readers.pop(key, None) or _Reader(cell, open_input)
        _readers[key] = reader
        while len(_readers) > READERS:
            _readers.popitem(last=False)
    try:
        data = reader.read(cell)
    except (pa.ArrowException, *library_errors()) as error:
        if not is_corruption(error):
            raise
        raise FetchError(f"{_named(cell)}: the file is damaged, or not a Parquet file; copy it again") from error
    if data is None:
        raise FetchError(f"{_named(cell)}: it is empty; store the picture's bytes")
    check_size(str(cell), len(data), max_bytes)
    return Content(data, etag)


class _Reader:
    """Reads one column of a file, one row group at a time. Thread-safe."""

    def __init__(self, cell: Cell, open_input: Callable[[], Any]) -> None:
        self._container, self._column, self._open = cell.container, cell.column, open_input
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._file: Any = None
        self._ends: list[int] = []
        self._group, self._next_row = -1, 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._kept: OrderedDict[int, bytes | None] = OrderedDict()
        self._kept_bytes = 0

    def read(self, cell: Cell) -> bytes | None:
        """Return the bytes of a row; None if it has none."""
        with self._lock:
            try:
                return self._find(cell)
            except FetchError:
                raise
            except BaseException:  # it has lost its place, and other threads wait for it
                self._reset()
                raise

    def _find(self, cell: Cell) -> bytes | None:
        if self._file is None:
            self._open_file(cell)
        group = next((number for number, end in enumerate(self._ends) if cell.row < end), None)
        if group is None:
            raise FetchError(f"{_named(cell)}: the file has {self._ends[-1] if self._ends else 0} rows")
        if cell.row not in self._kept and (group != self._group or cell.row < self._next_row):
            self._start(group)
        while cell.row not in self._kept:
            self._advance(cell)
        return self._kept[cell.row]

    def _open_file(self, cell: Cell) -> None:
        # The column is read with a buffer, or all of it would be in memory.
        file = pq.ParquetFile(self._open(), buffer_size=BUFFER_BYTES, pre_buffer=False)
        names = file.schema_arrow.names
        if self._column not in names or not holds_pictures(file.schema_arrow.field(self._column).type):
            raise FetchError(f"{_named(cell)}: the file has no such column of bytes; its columns are {', '.join(names[:12])}")
        self._ends = list(accumulate(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)))
        self._file = file

    def _start(self, group: int) -> None:
        """Begin to read a row group."""
        facts = self._file.metadata.row_group(group)
        row_bytes = facts.total_byte_size / max(1, facts.num_rows)
        rows = int(min(MAX_BATCH_ROWS, max(1, BATCH_BYTES / max(1.0, row_bytes))))
        is_struct = pa.types.is_struct(self._file.schema_arrow.field(self._column).type)
        columns = [f"{self._column}.bytes" if is_struct else self._column]
        self._batches = self._file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
        self._group, self._next_row = group, self._ends[group] - facts.num_rows
        self._kept.clear()
        self._kept_bytes = 0

    def _advance(self, cell: Cell) -> None:
        """Read the next batch of rows, and forget old ones."""
        batch = next(self._batches, None)
        if batch is None:
            raise FetchError(f"{_named(cell)}: its row group has fewer rows than the file says; copy the file again")
        column = batch.column(0)
        if pa.types.is_struct(column.type):
            (column,) = column.flatten()
        while self._kept and self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1] or b"")
        first, self._next_row = self._next_row, self._next_row + len(column)
        if self._next_row > cell.row - MAX_BATCH_ROWS:  # rows long before it are of no use
            for row, value in enumerate(column.to_pylist(), first):
                self._kept[row] = value
                self._kept_bytes += len(value or b"")


def holds_pictures(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold pictures: bytes, or structs with a field ``bytes``."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _named(cell: Cell) -> str:
    return f"{redact(cell.container)}: row {cell.row} of the column {cell.column[:40]!r}"
