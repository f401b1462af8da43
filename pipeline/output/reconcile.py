"""Reduce an index to one row per item, in memory that does not grow with its columns.

Only NumPy arrays are kept: 16 bytes per row while duplicates are searched, then 36 bytes per item that has several rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest.id_set import IdSet, duplicate_ids, hash_ids, merge_ids, positions
from pipeline.output.index import keep_rows, map_parts, read_part, release_arrow_memory
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo


def reconcile(output: Output) -> int:
    """Reduce the index to one row per item, after retried tasks, reprocessed items or an interrupted compaction.

    The row of the latest run stays, whatever the workers' clocks say; of several of its rows, the one that was finished last by
    these clocks. Parts with other rows move to ``superseded/``. Their
    rows that stay are first written to a new part, so an interruption loses no row and the next call continues.

    Returns:
        The number of rows that were superseded.

    Raises:
        StorageError: A part cannot be read, written or moved.
    """
    parts = list(output.parts())
    runs: set[str] = set()
    rows: list[int] = []
    duplicates = duplicate_ids(merge_ids(_survey(parts, output, runs, rows)))
    if not len(duplicates):
        return 0
    # Of equal rows the one in the larger part stays: it was merged from the other, which may be about to be deleted. And the
    # rest of a part never has the name of one that comes later here.
    parts = [part for _, part in sorted(zip(rows, parts, strict=True), key=lambda pair: (pair[0], pair[1].uri))]
    newest = _newest(parts, duplicates, sorted(runs), output)
    superseded = 0
    for number in np.flatnonzero(newest.superseded).tolist():
        superseded += int(newest.superseded[number])
        table = read_part(parts[number], output.files, None)
        at = positions(duplicates, hash_ids(table["item_id"]))
        stays = (at < 0) | ((newest.part[at] == number) & (newest.row[at] == np.arange(len(at))))
        keep_rows(parts[number], table, stays, output)
        del table
        release_arrow_memory()
    return superseded


class _Newest(NamedTuple):
    """The places of the newest row of each duplicate item, in the order of the ids."""

    part: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]
    superseded: npt.NDArray[np.int64]
    """Rows per part that are not the newest of their item."""


class _Candidates(NamedTuple):
    """The newest row per duplicate item of one part."""

    rows: int
    """All rows of duplicate items in the part."""
    at: npt.NDArray[np.int32]
    """Position of each row's item among the duplicate ids."""
    run: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64]
    row: npt.NDArray[np.int32]


def _survey(parts: Sequence[FileInfo], output: Output, runs: set[str], rows: list[int]) -> Iterator[IdSet]:
    """Yield the ids of each part. Adds its runs to ``runs`` and its number of rows to ``rows``."""

    def read(part: FileInfo) -> tuple[IdSet, list[str | None]]:
        table = read_part(part, output.files, ["item_id", "run_id"])
        return hash_ids(table["item_id"]), pc.unique(table["run_id"]).to_pylist()

    for ids, some_runs in map_parts(read, parts):
        rows.append(len(ids))
        runs.update(run for run in some_runs if run is not None)
        yield ids


def _newest(parts: Sequence[FileInfo], duplicates: IdSet, runs: Sequence[str], output: Output) -> _Newest:
    """Find the newest row of each duplicate item. Of equally new rows the last one wins."""
    best_run = np.full(len(duplicates), -2, np.int32)
    best_time = np.zeros(len(duplicates), np.int64)
    best_part, best_row = np.zeros_like(best_run), np.zeros_like(best_run)
    count = np.zeros(len(parts), np.int64)
    order = pa.array(runs, pa.string())

    def read(part: FileInfo) -> _Candidates:
        return _candidates(read_part(part, output.files, ["item_id", "run_id", "finished_at"]), duplicates, order)

    for number, found in enumerate(map_parts(read, parts)):
        run, time = best_run[found.at], best_time[found.at]
        wins = (found.run > run) | ((found.run == run) & (found.time >= time))
        at = found.at[wins]
        best_run[at], best_time[at], best_part[at], best_row[at] = found.run[wins], found.time[wins], number, found.row[wins]
        count[number] = found.rows
    return _Newest(best_part, best_row, count - np.bincount(best_part, minlength=len(parts)))


def _candidates(rows: pa.Table, duplicates: IdSet, runs: pa.Array) -> _Candidates:
    at = positions(duplicates, hash_ids(rows["item_id"]))
    row = np.flatnonzero(at >= 0).astype(np.int32)
    at, found = at[row], rows.take(pa.array(row))
    run = pc.fill_null(pc.index_in(found["run_id"], runs), -1).to_numpy()
    time = pc.fill_null(found["finished_at"].cast(pa.int64()), 0).to_numpy()
    order = np.lexsort((row, time, run, at))
    last = order[np.append(at[order][1:] != at[order][:-1], np.True_)[: len(order)]]  # of each item in this part
    return _Candidates(len(row), at[last], run[last], time[last], row[last])
