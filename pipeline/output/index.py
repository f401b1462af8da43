"""The index: one Parquet part per committed task and one row per item. An item with a row is done."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.concurrency import map_ahead
from pipeline.errors import FetchError, StorageError
from pipeline.manifest.id_set import IdSet, contains, hash_ids, merge_ids, positions
from pipeline.output.layout import REPAIR
from pipeline.output.output import Output
from pipeline.quality.expectation import Expectation
from pipeline.schema import INDEX, STATUSES
from pipeline.storage.backend import FileInfo
from pipeline.storage.errors import describe_error, is_corruption, is_missing, library_errors
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name, redact

READ_PARTS, READ_BYTES = 16, 2 * 1024 * 1024
"""Parts that are read at the same time, and their bytes together. A part takes some twenty times its size in memory."""

ONE_REQUEST_BYTES = 4 * 1024 * 1024
"""Parts up to this size are read in one request. Of a larger part only the requested columns are read."""

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
    return map_parts(lambda part: read_part(part, output.files, columns), output.parts())


def done_ids(output: Output, recipe: str, retry: Collection[str] = (), *, or_recipe: str | None = None) -> tuple[IdSet, IdSet]:
    """Return the ids that need no processing, and the other ids of the index.

    Processing is needed by rows of another recipe, and by failed items whose error code is in ``retry``.

    Args:
        output: The output.
        recipe: Fingerprint of the recipe.
        retry: Error codes whose items are processed again.
        or_recipe: Fingerprint of a recipe with the same results, if there is one.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    codes, good = pa.array(sorted(retry), pa.string()), pa.array([recipe, or_recipe], pa.string()).drop_null()
    others: list[IdSet] = []

    def split(part: FileInfo) -> tuple[IdSet, IdSet]:
        rows = read_part(part, output.files, ["item_id", "recipe", *(["error_code"] if retry else [])])
        ids, is_done = hash_ids(rows["item_id"]), pc.is_in(rows["recipe"], good)
        if retry:
            is_done = pc.and_not(is_done, pc.is_in(rows["error_code"], codes))
        mask = is_done.to_numpy()
        return ids[mask], ids[~mask]

    def done() -> Iterator[IdSet]:
        for some_done, some_others in map_parts(split, output.parts()):
            others.append(some_others)
            yield some_done

    return merge_ids(done()), merge_ids(others)


def ids_of_run(output: Output, run_id: str) -> IdSet:
    """Return the ids of the items whose rows were written by this run.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    parts = read_index(output, ["item_id", "run_id"])
    return merge_ids(hash_ids(part.filter(pc.equal(part["run_id"], run_id))["item_id"]) for part in parts)


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
            keep_rows(part, read_part(part, output.files, None), ~gone, output)
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


def keep_rows(part: FileInfo, table: pa.Table, stays: npt.NDArray[np.bool_], output: Output) -> None:
    """Replace a part by one with the rows that stay, and move it to ``superseded/``. An interruption loses no row.

    Args:
        part: The part.
        table: All its rows.
        stays: One value per row.
        output: Where it is.

    Raises:
        StorageError: It cannot be read, written or moved.
    """
    _copy_to_superseded(part, output)
    if stays.any() and write_part(output, table.filter(pa.array(stays))) == part.uri:
        return
    output.files.delete(part.uri)


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
    found = np.zeros(len(ids), np.bool_)
    for rows in read_index(output, ["item_id", "status"]):
        at = positions(ids, hash_ids(rows["item_id"]))
        found[at[at >= 0]] = True
        add_counts(rows["status"].filter(pa.array(at >= 0)), counts)
    return counts | {"missing": int((~found).sum())}


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
    with _opened(part, files) as file:
        return _checked(file.read(wanted, use_threads=False), wanted)


def read_schema(part: FileInfo, files: Files) -> pa.Schema:
    """Read the columns of one part, as they are in its file.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    with _opened(part, files) as file:
        return file.schema_arrow


@contextmanager
def _opened(part: FileInfo, files: Files) -> Iterator[pq.ParquetFile]:
    """Open a part and map the errors of reading it.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    try:
        if part.size <= ONE_REQUEST_BYTES:
            yield _open(pa.BufferReader(files.read(part.uri)))
        else:
            with files.open_input(part.uri) as source:
                yield _open(source)
    except FetchError as error:
        merged = f"a run merged {redact(part.uri)} with other parts while this command read the index; run this command again"
        raise StorageError(merged if error.__cause__ and is_missing(error.__cause__) else str(error)) from error
    except (pa.ArrowException, *library_errors()) as error:
        if not is_corruption(error):
            raise StorageError(describe_error(error, part.uri)) from error
        raise DamagedPart(f"{redact(part.uri)} is damaged; {REPAIR}") from error


def _open(source: Any) -> pq.ParquetFile:
    """Open a part. Pages are compared with their checksums, without which most flipped bits would give other values."""
    return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)


def _checked(rows: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Return rows with the fields of ``INDEX``. Index columns that are newer than these rows are filled with nulls.

    Raises:
        ArrowException: The rows are not those of an index; or ValueError.
    """
    if len(set(rows.column_names)) < rows.num_columns:
        raise ValueError("two columns have the same name")
    for at, name_ in enumerate(rows.column_names):
        if name_ in INDEX.names:
            rows = rows.set_column(at, INDEX.field(name_), rows.column(at).cast(INDEX.field(name_).type))
    for absent in sorted(set(INDEX.names if columns is None else columns) & set(INDEX.names) - set(rows.column_names)):
        field = INDEX.field(absent)
        if not field.nullable or columns is not None:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    rows.validate(full=True)
    for field in rows.schema:
        if not field.nullable and rows[field.name].null_count:
            raise ValueError(f"{field.name} is missing")
    if "status" in rows.column_names and not pc.all(pc.is_in(rows["status"], pa.array(STATUSES)), min_count=0).as_py():
        raise ValueError("a status is unknown")
    return rows


def map_parts(step: Callable[[FileInfo], T], parts: Iterable[FileInfo]) -> Iterator[T]:
    """Yield the results of a step per part in order, computed some parts ahead. Then release unused memory."""
    with ThreadPoolExecutor(READ_PARTS) as pool:
        yield from map_ahead(pool, step, parts, READ_PARTS, weight=lambda part: part.size, max_weight=READ_BYTES)
    release_arrow_memory()
