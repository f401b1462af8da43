"""Compare two sets of keys of any size in bounded memory: a partitioned hash join with buckets on the local disk.

The keys of an index are not sorted, so a listing cannot be compared with them piece by piece. Rows with equal keys therefore go
to the same bucket, by a hash of the key, and the buckets are compared one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.backend import FileInfo

INDEX_BYTES = 128 * 1024 * 1024
"""Bytes of an index per bucket: about 400,000 rows. The paths of their objects take about 50 MiB."""

FLUSH_BYTES = 64 * 1024 * 1024
"""Bytes that wait in memory before they are appended to the buckets."""

BATCH_ROWS = 256 * 1024
"""Rows that are looked up together."""

HASHED_ROWS = 16 * 1024
"""Rows that are hashed together: the hash takes 24 bytes of memory per byte of a key."""

Number = Callable[[pa.ChunkedArray], npt.NDArray[Any]]
"""Returns the number of each key's bucket."""


def bucket_count(parts: Iterable[FileInfo]) -> int:
    """Return the number of buckets for the keys of an index."""
    return 1 + sum(part.size for part in parts) // INDEX_BYTES


class Buckets:
    """Rows in buckets. A single bucket is held in memory; several are files (Arrow IPC streams) in an own folder.

    Args:
        folder: Parent of that folder.
        key: Name of the key's column, of type binary.
        count: Number of buckets.
        number: Returns the bucket of each key. Default: by a hash of the key.
    """

    def __init__(self, folder: Path, key: str, count: int, number: Number | None = None) -> None:
        self.folder, self.key, self.count = folder, key, count
        self._number = number or self._by_hash
        self._waiting: list[pa.Table] = []
        self._bytes = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows. Those of all calls have the same columns."""
        for start in range(0, rows.num_rows, HASHED_ROWS):
            piece = rows.slice(start, HASHED_ROWS)
            if self.count > 1:
                piece = piece.append_column("bucket", pa.array(self._number(piece[self.key]).astype(np.int32)))
            self._waiting.append(piece)
            self._bytes += piece.nbytes
        if self.count > 1 and self._bytes > FLUSH_BYTES:
            self._flush()

    def read(self, number: int) -> Iterator[pa.Table]:
        """Yield the rows of one bucket."""
        if self.count == 1:
            yield from self._waiting
            return
        self._flush()
        path = self._path(number)
        if path.exists():
            with pa.OSFile(str(path)) as file:
                while file.tell() < file.size():
                    yield pa.ipc.open_stream(file).read_all()

    def _by_hash(self, keys: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
        # The high bits of the hash choose the bucket: its low bits depend on few bits of the key.
        return np.asarray((hash_keys(keys) >> np.uint64(32)) * np.uint64(self.count) >> np.uint64(32))

    def _flush(self) -> None:
        if not self._waiting:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = pa.concat_tables(self._waiting).sort_by("bucket")
        self._waiting, self._bytes = [], 0
        limits = np.searchsorted(rows["bucket"].to_numpy(), np.arange(self.count + 1))
        rows = rows.drop_columns("bucket")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        for number, (start, stop) in enumerate(pairwise(limits)):
            if stop > start:
                with self._path(number).open("ab") as file, pa.ipc.new_stream(file, rows.schema, options=options) as stream:
                    stream.write_table(rows.slice(start, stop - start).combine_chunks())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.arrows"


class Difference(NamedTuple):
    """A part of the difference of two sets."""

    extra: pa.Table
    """Found rows whose key is not known."""
    missing: pa.Table
    """Known rows whose key was not found."""


def differences(known: Buckets, found: Iterable[pa.Table], folder: Path) -> Iterator[Difference]:
    """Compare known rows with found ones by their keys. Of the found rows a single batch is in memory, of the known a bucket.

    Args:
        known: The known rows.
        found: Tables with the key's column. Consumed as differences are taken, if all known rows are in a single bucket.
        folder: Folder for the buckets of the found rows.
    """
    buckets: Iterable[Iterable[pa.Table]] = [found]
    if known.count > 1:
        spilled = Buckets(folder, known.key, known.count)
        for table in found:
            spilled.add(table)
        buckets = (spilled.read(number) for number in range(known.count))
    for number, tables in enumerate(buckets):
        yield from _differences(list(known.read(number)), tables, known.key)


def _differences(known: list[pa.Table], found: Iterable[pa.Table], key: str) -> Iterator[Difference]:
    rows = pa.concat_tables(known) if known else None
    keys = pa.chunked_array([], pa.binary()) if rows is None else rows[key]
    seen = np.zeros(len(keys), np.bool_)
    nothing = pa.table({})
    for batch in in_batches(found, BATCH_ROWS):
        extra = batch.filter(pc.invert(pc.is_in(batch[key], value_set=keys)))
        seen |= pc.is_in(keys, value_set=batch[key]).to_numpy()
        yield Difference(extra, nothing)
    if rows is not None:
        yield Difference(nothing, rows.filter(pa.array(~seen)))


def in_batches(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join tables until they have at least this many rows together."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            yield pa.concat_tables(waiting)
            waiting, count = [], 0
    if count:
        yield pa.concat_tables(waiting)


def hash_keys(keys: pa.ChunkedArray, seed: int = 0) -> npt.NDArray[np.uint64]:
    """Return a 64-bit multilinear hash of each key (binary or string, no nulls). Its high bits are the good ones.

    It spreads keys evenly and is computed without a Python object per key. Equal hashes do not mean equal keys.
    """
    array = keys.cast(pa.large_binary()).combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combine_chunks returns one for no chunks
        return np.zeros(0, np.uint64)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]] if data_buffer else np.zeros(0, np.uint8)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    places = np.arange(len(data)) - np.repeat(starts, lengths)
    weights = np.random.default_rng(seed).integers(1, 2**64, 2 + lengths.max(initial=0), np.uint64)
    # Sums of uint64 wrap, so the difference of two of them is right.
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weights[2 + places] * data, dtype=np.uint64)])
    return np.asarray(weights[0] + weights[1] * lengths.astype(np.uint64) + sums[starts + lengths] - sums[starts])
