"""The index: one Parquet part a committed task, one row an item. What stands here is done."""

from __future__ import annotations

import heapq
import io
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, FetchError, StorageError, WriteError
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.output.layout import Layout
from pipeline.schema import INDEX
from pipeline.storage.backend import FileInfo
from pipeline.storage.errors import LIBRARY_ERRORS, describe_error, is_damage
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name, shown

PARTS_AT_ONCE, BYTES_AT_ONCE = 16, 8 * 1024 * 1024
"""Parts that are read at the same time: many small ones, few large ones, which take several times their size in memory."""

WHOLE_BYTES = 4 * 1024 * 1024
"""A part up to this size is read in one request; of a larger one only the columns asked for."""

SMALL_PARTS = 1024
UNITED_BYTES = 4 * 1024 * 1024
"""About how large a part becomes when small ones are united: some 12,000 rows. Every doubling takes the driver 90 MiB more."""

T = TypeVar("T")


@dataclass
class Failures:
    """The failures of one error code."""

    count: int
    item_id: str
    """An example, with its detail."""
    detail: str


@dataclass
class Summary:
    """An index in numbers."""

    counts: dict[str, int] = field(default_factory=dict)
    """Items by status."""
    failures: dict[str, Failures] = field(default_factory=dict)
    """By error code."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many items name each reason for a lower quality."""
    quality_histogram: tuple[int, ...] = ()
    """Items by quality in 20 equal steps from 0 to 1."""
    quality_deciles: tuple[float, ...] = ()
    """Eleven qualities: the least, what a tenth is below, …, the highest. Empty without any."""
    calibrated: bool = False
    """Every quality is a calibrated probability."""


def write_part(layout: Layout, table: pa.Table, files: Files) -> str:
    """Commit rows of the index schema as one part; the same items always make the same part.

    Returns:
        the part's URI.

    Raises:
        StorageError: it could not be written.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    uri = layout.part(table["item_id"].to_pylist())
    put(uri, sink.getvalue(), files)
    return uri


def read_index(layout: Layout, files: Files, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The index part by part, in the order of their names.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    parts = files.list(layout.index, suffixes=(".parquet",))
    return _ahead(lambda part: _read_part(part, files, columns), parts)


def done_ids(layout: Layout, files: Files, again: Collection[str] = ()) -> IdSet:
    """The sorted digests of the items that need not be done: those in the index, failed ones too.

    Args:
        again: error codes whose items are to be done again.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """

    def digests(part: FileInfo) -> IdSet:
        rows = _read_part(part, files, ["item_id", "error_code"] if again else ["item_id"])
        if again:
            rows = rows.filter(pc.invert(pc.is_in(rows["error_code"], pa.array(sorted(again), pa.string()))))
        return hash_ids(rows["item_id"])

    return merge_ids(_ahead(digests, files.list(layout.index, suffixes=(".parquet",))))


def ids_of_run(layout: Layout, files: Files, run_id: str) -> IdSet:
    """The sorted digests of the items whose rows this run has made.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    rows = read_index(layout, files, ["item_id", "run_id"])
    return merge_ids(hash_ids(part.filter(pc.equal(part["run_id"], run_id))["item_id"]) for part in rows)


def recipes(output: str, files: Files) -> list[str]:
    """The recipe folders of an output; the output itself, if it is one.

    Raises:
        StorageError: it can't be listed.
    """

    def is_recipe(folder: str) -> bool:
        return files.exists(join(folder, "recipe.json")) or files.is_folder(join(folder, "index"))

    return [output] if is_recipe(output) else [folder for folder in files.folders(output) if is_recipe(folder)]


def only_recipe(output: str, files: Files) -> Layout:
    """The one recipe of an output, or the recipe whose folder it is.

    Raises:
        ConfigError: there is none, or there are several.
        StorageError: the output can't be listed.
    """
    where = files.absolute(output)
    found = recipes(where, files)
    if len(found) != 1:
        raise ConfigError(
            f"{where} has the results of {len(found)} recipes; name the folder of one: {', '.join(found)}"
            if found
            else f"no results under {where}; a run writes them there: matteline run --output {output}"
        )
    return Layout.of(found[0])


def reconcile(layout: Layout, files: Files) -> int:
    """Give every item one row again after tasks were repeated or failures done anew: the newest stays.

    Parts with older rows move to ``superseded/``; what they hold besides is written to a new part first, so that an
    interruption never loses a row, and the next call goes on from there.

    Returns:
        how many rows were superseded.

    Raises:
        StorageError: a part can't be read, written or moved.
    """
    parts = list(files.list(layout.index, suffixes=(".parquet",)))
    found = list(_ahead(lambda part: hash_ids(_read_part(part, files, ["item_id"])["item_id"]), parts))
    twice = duplicate_ids(merge_ids(found))
    if not len(twice):
        return 0
    involved = [part for part, ids in zip(parts, found, strict=True) if contains(twice, ids).any()]
    newest = _newest(involved, twice, files)
    superseded = 0
    written: set[str] = set()
    for part in involved:
        if part.uri in written:  # what stood there was replaced by rows that stay
            continue
        table = _read_part(part, files, None)
        ids = table["item_id"].to_pylist()
        stays = [newest.get(item_id, (part.uri, row)) == (part.uri, row) for row, item_id in enumerate(ids)]
        if all(stays):
            continue
        superseded += len(stays) - sum(stays)
        _set_aside(part, layout, files)
        if any(stays):
            written.add(write_part(layout, table.filter(pa.array(stays)), files))
        if part.uri not in written:
            files.delete(part.uri)
    return superseded


def _newest(parts: Sequence[FileInfo], twice: IdSet, files: Files) -> dict[str, tuple[str, int]]:
    """Where the newest row of every item stands that has several: of the latest run, whatever the workers' clocks say."""
    best: dict[str, tuple[str, int, str, int]] = {}
    keys = ["item_id", "run_id", "finished_at"]
    for part, rows in zip(parts, _ahead(lambda part: _read_part(part, files, keys), parts), strict=True):
        for row in np.flatnonzero(contains(twice, hash_ids(rows["item_id"]))).tolist():
            item_id, run_id = rows["item_id"][row].as_py(), rows["run_id"][row].as_py() or ""
            rank = (run_id, rows["finished_at"][row].value or 0, part.uri, row)
            best[item_id] = max(best.get(item_id, rank), rank)
    return {item_id: rank[2:] for item_id, rank in best.items()}


def compact(layout: Layout, files: Files, *, above: int = SMALL_PARTS) -> int:
    """Unite small parts once there are more than ``above``: a part is a request for every reader.

    The united part is written before its pieces are removed. An interruption leaves rows twice, which ``reconcile`` mends.

    Returns:
        how many parts went into larger ones.

    Raises:
        StorageError: a part can't be read, written or removed.
    """
    small = [part for part in files.list(layout.index, suffixes=(".parquet",)) if part.size < UNITED_BYTES // 8]
    if len(small) <= above:
        return 0
    groups: list[list[FileInfo]] = [[]]
    for part in small:
        if sum(piece.size for piece in groups[-1]) + part.size > UNITED_BYTES:
            groups.append([])
        groups[-1].append(part)
    for group in groups:
        tables = list(_ahead(lambda part: _read_part(part, files, None), group))
        try:
            united = write_part(layout, pa.concat_tables(tables, promote_options="default"), files)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a manifest's column has changed its type: they stay apart
            continue
        for part in group:
            if part.uri != united:
                files.delete(part.uri)
        del tables
        release_arrow_memory()
    return len(small)


def summarise(layout: Layout, files: Files) -> Summary:
    """Count what is in the index.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    summary = Summary()
    qualities: list[npt.NDArray[np.float32]] = []
    uncalibrated = False
    columns = ["item_id", "status", "error_code", "error_detail", "quality", "quality_calibrated", "reasons"]
    for rows in read_index(layout, files, columns):
        count(rows["status"], summary.counts)
        count(pc.list_flatten(rows["reasons"]), summary.reasons)
        about = rows.select(["error_code", "item_id", "error_detail"])
        failed = about.filter(pc.is_valid(about["error_code"])).group_by("error_code", use_threads=False)
        first = pc.ScalarAggregateOptions(skip_nulls=False)
        wanted = [("item_id", "count"), ("item_id", "first", first), ("error_detail", "first", first)]
        for row in failed.aggregate(wanted).to_pylist():
            example = Failures(0, row["item_id_first"], row["error_detail_first"] or "")
            summary.failures.setdefault(row["error_code"], example).count += row["item_id_count"]
        qualities.append(rows["quality"].drop_null().to_numpy())
        uncalibrated |= bool(pc.any(pc.invert(rows["quality_calibrated"])).as_py())
    if any(len(some) for some in qualities):
        every = np.concatenate(qualities)
        summary.quality_histogram = tuple(np.histogram(every, bins=20, range=(0, 1))[0].tolist())
        summary.quality_deciles = tuple(np.quantile(every, np.linspace(0, 1, 11)).round(4).tolist())
        summary.calibrated = not uncalibrated
    return summary


def tally(layout: Layout, files: Files, ids: IdSet) -> dict[str, int]:
    """Rows by status of the items with these (sorted) digests; ``missing`` counts the digests without a row.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    counts: dict[str, int] = {}
    for rows in read_index(layout, files, ["item_id", "status"]):
        count(rows["status"].filter(pa.array(contains(ids, hash_ids(rows["item_id"])))), counts)
    return counts | {"missing": len(ids) - sum(counts.values())}


def worst(layout: Layout, files: Files, count: int) -> list[dict[str, Any]]:
    """The rows of lowest quality that have both objects, worst first.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    columns = ["item_id", "image_uri", "box", "mask_uri", "cutout_uri", "quality", "reasons"]

    def candidates() -> Iterator[dict[str, Any]]:
        for rows in read_index(layout, files, columns):
            whole = pc.and_(pc.is_valid(rows["mask_uri"]), pc.is_valid(rows["cutout_uri"]))
            yield from rows.filter(whole).sort_by("quality").slice(0, count).to_pylist()

    return heapq.nsmallest(count, candidates(), key=lambda row: (row["quality"], row["item_id"]))


def release_arrow_memory() -> None:
    """Unused memory, to the system: many small pieces leave holes everywhere, which glibc's allocator would keep."""
    pa.default_memory_pool().release_unused()


def _set_aside(part: FileInfo, layout: Layout, files: Files) -> None:
    """Keep a copy of a part that is about to be replaced."""
    try:
        data = files.read(part.uri)
    except FetchError as error:
        raise StorageError(str(error)) from error
    put(join(layout.superseded, name(part.uri)), data, files)


def _read_part(part: FileInfo, files: Files, columns: Sequence[str] | None) -> pa.Table:
    wanted = None if columns is None else list(columns)
    try:
        if part.size <= WHOLE_BYTES:
            return _with_all(pq.ParquetFile(pa.BufferReader(files.read(part.uri))).read(wanted, use_threads=False), wanted)
        with files.open_input(part.uri) as source:
            return _with_all(pq.ParquetFile(source, pre_buffer=True).read(wanted, use_threads=False), wanted)
    except FetchError as error:
        raise StorageError(str(error)) from error
    except (pa.ArrowException, *LIBRARY_ERRORS) as error:
        if not is_damage(error):
            raise StorageError(describe_error(error, part.uri)) from error
        raise StorageError(f"{shown(part.uri)} is damaged; remove it, and the next run does its items again") from error


def _with_all(rows: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """The rows with nulls in the columns that the index didn't have yet when they were written."""
    for absent in sorted(set(columns or ()) & set(INDEX.names) - set(rows.column_names)):
        field = INDEX.field(absent)
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows


def put(uri: str, data: bytes, files: Files) -> None:
    """Write what is no item's own object.

    Raises:
        StorageError: it can't be written.
    """
    try:
        files.write(uri, data)
    except WriteError as error:
        raise StorageError(str(error)) from error


def _ahead(work: Callable[[FileInfo], T], parts: Iterable[FileInfo]) -> Iterator[T]:
    """The results in order, computed some parts ahead and never held all at once.

    At the end unused memory goes back to the system.
    """
    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        waiting: deque[tuple[int, Future[T]]] = deque()
        for part in parts:
            while waiting and (len(waiting) >= PARTS_AT_ONCE or sum(size for size, _ in waiting) + part.size > BYTES_AT_ONCE):
                yield waiting.popleft()[1].result()
            waiting.append((part.size, pool.submit(work, part)))
        while waiting:
            yield waiting.popleft()[1].result()
    release_arrow_memory()


def count(values: pa.ChunkedArray | pa.Array, into: dict[str, int]) -> None:
    """Add how often each text stands there; null isn't one."""
    for entry in pc.value_counts(values).to_pylist():
        if entry["values"] is not None:
            into[entry["values"]] = into.get(entry["values"], 0) + entry["counts"]
