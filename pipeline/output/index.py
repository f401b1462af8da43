"""The index: one Parquet part per committed task and one row per item. An item with a row is done."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.concurrency import map_ahead
from pipeline.errors import FetchError, StorageError
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.output.output import Output
from pipeline.quality.expectation import Expectation
from pipeline.schema import INDEX
from pipeline.storage.backend import FileInfo
from pipeline.storage.errors import LIBRARY_ERRORS, describe_error, is_corruption
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name, redact

READ_PARTS, READ_BYTES = 16, 8 * 1024 * 1024
"""Parts that are read at the same time, and their bytes together. A part takes several times its size in memory."""

ONE_REQUEST_BYTES = 4 * 1024 * 1024
"""Parts up to this size are read in one request. Of a larger part only the requested columns are read."""

MAX_SMALL_PARTS = 1
"""Small parts that an index keeps; ``compact`` merges more. A merged part is at most ``MERGED_BYTES``, so a nightly run
rewrites little."""

MERGED_BYTES = 4 * 1024 * 1024
"""Approximate size of a merged part: 12,000 rows. Twice the size takes 90 MiB more memory in the driver."""

T = TypeVar("T")


class DamagedPart(StorageError):
    """An index part is truncated or not a Parquet file."""


def write_part(output: Output, table: pa.Table) -> str:
    """Commit rows of the index schema as one part and return its URI. The name depends on the item ids only.

    Raises:
        StorageError: The part cannot be written.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    uri = output.layout.part(table["item_id"].to_pylist())
    output.write(uri, sink.getvalue())
    return uri


def read_index(output: Output, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the index part by part, in the order of the parts' names.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    return _map_parts(lambda part: read_part(part, output.files, columns), output.parts())


def done_ids(output: Output, recipe: str, retry: Collection[str] = ()) -> tuple[IdSet, IdSet]:
    """Return the ids that need no processing, and the other ids of the index.

    Processing is needed by rows of another recipe, and by failed items whose error code is in ``retry``.

    Args:
        output: The output.
        recipe: Fingerprint of the recipe.
        retry: Error codes whose items are processed again.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    codes = pa.array(sorted(retry), pa.string())

    def ids_of(part: FileInfo) -> tuple[IdSet, IdSet]:
        rows = read_part(part, output.files, ["item_id", "recipe", *(["error_code"] if retry else [])])
        ids, is_done = hash_ids(rows["item_id"]), pc.equal(rows["recipe"], recipe)
        if retry:
            is_done = pc.and_not(is_done, pc.is_in(rows["error_code"], codes))
        mask = np.array(is_done.to_pylist(), np.bool_)
        return ids[mask], ids[~mask]

    pieces = list(_map_parts(ids_of, output.parts()))
    return merge_ids(done for done, _ in pieces), merge_ids(other for _, other in pieces)


def ids_of_run(output: Output, run_id: str) -> IdSet:
    """Return the ids of the items whose rows were written by this run.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    parts = read_index(output, ["item_id", "run_id"])
    return merge_ids(hash_ids(part.filter(pc.equal(part["run_id"], run_id))["item_id"]) for part in parts)


def reconcile(output: Output) -> int:
    """Reduce the index to one row per item, after retried tasks or reprocessed failures. The newest row stays.

    Parts with older rows move to ``superseded/``. Their other rows are first written to a new part, so an interruption loses no
    row and the next call continues.

    Returns:
        The number of rows that were superseded.

    Raises:
        StorageError: A part cannot be read, written or moved.
    """
    files, parts = output.files, list(output.parts())
    ids_of_parts = list(_map_parts(lambda part: hash_ids(read_part(part, files, ["item_id"])["item_id"]), parts))
    duplicates = duplicate_ids(merge_ids(ids_of_parts))
    if not len(duplicates):
        return 0
    involved = [part for part, ids in zip(parts, ids_of_parts, strict=True) if contains(duplicates, ids).any()]
    newest = _newest(involved, duplicates, files)
    superseded = 0
    written: set[str] = set()
    for part in involved:
        if part.uri in written:  # its former content was replaced by rows that stay
            continue
        table = read_part(part, files, None)
        ids = table["item_id"].to_pylist()
        stays = [newest.get(item_id, (part.uri, row)) == (part.uri, row) for row, item_id in enumerate(ids)]
        if all(stays):
            continue
        superseded += len(stays) - sum(stays)
        written |= _keep_rows(part, table, stays, output, written)
    return superseded


def drop_rows(output: Output, ids: IdSet) -> int:
    """Move the rows of these items (a sorted set) out of the index, so that the next run processes the items again.

    Returns:
        The number of rows that were moved to ``superseded/``.

    Raises:
        StorageError: A part cannot be read, written or moved.
    """
    dropped = 0
    for part in list(output.parts()) if len(ids) else ():
        gone = contains(ids, hash_ids(read_part(part, output.files, ["item_id"])["item_id"]))
        if gone.any():
            dropped += int(gone.sum())
            _keep_rows(part, read_part(part, output.files, None), (~gone).tolist(), output)
    return dropped


def remove_unreadable_parts(output: Output) -> list[str]:
    """Move index parts that are damaged to ``superseded/``, and return their URIs. The next run processes their items again.

    Raises:
        StorageError: A part cannot be moved.
    """
    removed = []
    for part in list(output.parts()):
        try:
            read_part(part, output.files, None)
        except DamagedPart:
            _copy_to_superseded(part, output)
            output.files.delete(part.uri)
            removed.append(part.uri)
    return removed


def _keep_rows(
    part: FileInfo, table: pa.Table, stays: Sequence[bool], output: Output, written: Collection[str] = ()
) -> set[str]:
    """Replace a part by one with the rows that stay, and move it to ``superseded/``. Returns the URIs of new parts."""
    _copy_to_superseded(part, output)
    new = {write_part(output, table.filter(pa.array(stays)))} if any(stays) else set()
    if part.uri not in new and part.uri not in written:
        output.files.delete(part.uri)
    return new


def _newest(parts: Sequence[FileInfo], duplicates: IdSet, files: Files) -> dict[str, tuple[str, int]]:
    """Return part and row of the newest row per duplicate item. The latest run wins, whatever the workers' clocks say."""
    best: dict[str, tuple[str, int, str, int]] = {}
    keys = ["item_id", "run_id", "finished_at"]
    for part, rows in zip(parts, _map_parts(lambda part: read_part(part, files, keys), parts), strict=True):
        for row in np.flatnonzero(contains(duplicates, hash_ids(rows["item_id"]))).tolist():
            item_id, run_id = rows["item_id"][row].as_py(), rows["run_id"][row].as_py() or ""
            rank = (run_id, rows["finished_at"][row].value or 0, part.uri, row)
            best[item_id] = max(best.get(item_id, rank), rank)
    return {item_id: rank[2:] for item_id, rank in best.items()}


def compact(output: Output, *, above: int = MAX_SMALL_PARTS) -> int:
    """Merge small parts once there are more than ``above``, since each part costs every reader a request.

    The merged part is written before its pieces are deleted. An interruption leaves duplicate rows for ``reconcile``.

    Returns:
        The number of parts that were merged.

    Raises:
        StorageError: A part cannot be read, written or removed.
    """
    small = [part for part in output.parts() if part.size < MERGED_BYTES // 8]
    if len(small) <= above:
        return 0
    groups: list[list[FileInfo]] = [[]]
    for part in small:
        if sum(piece.size for piece in groups[-1]) + part.size > MERGED_BYTES:
            groups.append([])
        groups[-1].append(part)
    for group in groups:
        tables = list(_map_parts(lambda part: read_part(part, output.files, None), group))
        try:
            merged = write_part(output, pa.concat_tables(tables, promote_options="default"))
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a manifest's column has changed its type: these parts are not merged
            continue
        with ThreadPoolExecutor(READ_PARTS) as pool:
            list(pool.map(output.files.delete, [part.uri for part in group if part.uri != merged]))
        del tables
        release_arrow_memory()
    return len(small)


def expectation_of(rows: pa.Table) -> Expectation:
    """Return how many of the ok items with a calibrated quality are expected not to be good.

    ``rows`` has the columns ``status``, ``quality`` and ``quality_calibrated``.
    """
    chosen = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), rows["quality_calibrated"]))
    return Expectation.of(chosen["quality"].to_numpy())


def tally(output: Output, ids: IdSet) -> dict[str, int]:
    """Count the rows of these items by status. ``missing`` counts the ids without a row.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    counts: dict[str, int] = {}
    for rows in read_index(output, ["item_id", "status"]):
        add_counts(rows["status"].filter(pa.array(contains(ids, hash_ids(rows["item_id"])))), counts)
    return counts | {"missing": len(ids) - sum(counts.values())}


def add_counts(values: pa.ChunkedArray | pa.Array, counts: dict[str, int]) -> None:
    """Add the number of occurrences of each text to ``counts``. Nulls are not counted."""
    for entry in pc.value_counts(values).to_pylist():
        if entry["values"] is not None:
            counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]


def release_arrow_memory() -> None:
    """Return Arrow's unused memory to the system, since glibc's allocator keeps what many small allocations fragment."""
    pa.default_memory_pool().release_unused()


def _copy_to_superseded(part: FileInfo, output: Output) -> None:
    try:
        data = output.files.read(part.uri)
    except FetchError as error:
        raise StorageError(str(error)) from error
    output.write(join(output.layout.superseded, name(part.uri)), data)


def read_part(part: FileInfo, files: Files, columns: Sequence[str] | None) -> pa.Table:
    """Read one part. Index columns that are newer than the part are null.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    wanted = None if columns is None else list(columns)
    try:
        if part.size <= ONE_REQUEST_BYTES:
            return _add_missing(_open(pa.BufferReader(files.read(part.uri))).read(wanted, use_threads=False), wanted)
        with files.open_input(part.uri) as source:
            return _add_missing(_open(source).read(wanted, use_threads=False), wanted)
    except FetchError as error:
        raise StorageError(str(error)) from error
    except (pa.ArrowException, *LIBRARY_ERRORS) as error:
        if not is_corruption(error):
            raise StorageError(describe_error(error, part.uri)) from error
        raise DamagedPart(f"{redact(part.uri)} is damaged; run matteline verify --repair, then the same run again") from error


def _open(source: Any) -> pq.ParquetFile:
    """Open a part. Pages are compared with their checksums, without which most flipped bits would give other values."""
    return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)


def _add_missing(rows: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Add index columns that are newer than these rows, filled with nulls.

    Raises:
        ValueError: The rows are not those of an index.
    """
    if "item_id" not in rows.column_names and (columns is None or "item_id" in columns):
        raise ValueError("it has no column item_id")
    for at, (name_, kind) in enumerate(zip(rows.column_names, rows.schema.types, strict=True)):
        if name_ in INDEX.names and kind != INDEX.field(name_).type:
            rows = rows.set_column(at, INDEX.field(name_), rows[name_].cast(INDEX.field(name_).type))
    for absent in sorted(set(columns or ()) & set(INDEX.names) - set(rows.column_names)):
        field = INDEX.field(absent)
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def _map_parts(step: Callable[[FileInfo], T], parts: Iterable[FileInfo]) -> Iterator[T]:
    """Yield the results in order, computed some parts ahead. Then release unused memory."""
    with ThreadPoolExecutor(READ_PARTS) as pool:
        yield from map_ahead(pool, step, parts, READ_PARTS, weight=lambda part: part.size, max_weight=READ_BYTES)
    release_arrow_memory()
