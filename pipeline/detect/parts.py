"""Read and compare the parts of a detection: one row per request, which is an item with its image, its box and its names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.detector import Detector
from pipeline.errors import FetchError, StorageError
from pipeline.manifest.id_set import IdSet, contains, hash_ids, merge_ids, positions
from pipeline.manifest.manifest import Manifest, read
from pipeline.output.changes import hash_requests
from pipeline.output.output import Output
from pipeline.storage.files import Files
from pipeline.storage.uris import join, redact

PARTS = "parts"
"""Folder of the parts, below that of the work."""

COLUMNS = ("item_id", "request", "found", "error_code", "error_detail")
"""Columns of a part. ``request`` is the hash of id, URI, box and names, 16 bytes: a row whose request has left the manifest
is not used, so what was found under another name or in another image is not either."""

REQUEST = pa.binary(16)


@dataclass(frozen=True)
class Results:
    """The results of all requests in memory, good ones before failed ones, and of several the newest."""

    good: tuple[IdSet, pa.Table]
    """Sorted requests, and their rows in the same order."""
    failed: tuple[IdSet, pa.Table]
    """The same of failed ones."""

    def of(self, requests: IdSet) -> tuple[pa.Table, list[int]]:
        """Return the good rows of some requests, and the place of each of them among ``requests``."""
        at = positions(self.good[0], requests)
        return self.good[1].take(pa.array(at[at >= 0])), np.flatnonzero(at >= 0).tolist()

    def failures_of(self, requests: IdSet) -> pa.Table:
        """Return the failed rows of those requests that have no good one."""
        at = positions(self.failed[0], requests[~contains(self.good[0], requests)])
        return self.failed[1].take(pa.array(at[at >= 0]))


def done_ids(output: Output, manifest: Manifest, detector: Detector, retry: Collection[str] = ()) -> IdSet:
    """Return the sorted ids of the manifest's items whose request has a row.

    Args:
        output: Where the parts are.
        manifest: The manifest.
        detector: Its names count for rows that have none of their own.
        retry: Error codes; a request that failed with one of them and has no other row is not done.

    Raises:
        StorageError: A part is damaged.
    """
    codes = pa.array(sorted(retry), pa.string())
    known: list[IdSet] = []
    for rows in _tables(output, ["request", "error_code"]):
        again = pc.is_in(rows["error_code"], codes).to_numpy(zero_copy_only=False).astype(bool)
        known.append(_hashes(rows)[~again])
    done = merge_ids(known)
    if not len(done):
        return done
    tables = read_all(manifest, output.files)
    return merge_ids(hash_ids(rows["item_id"])[contains(done, hash_requests(rows, detector))] for rows in tables)


def read_all(manifest: Manifest, files: Files) -> Iterator[pa.Table]:
    """Yield the manifest's items in its order."""
    for fragment in manifest.fragments:
        yield from read(manifest, fragment, files)


def results(output: Output, schema: pa.Schema) -> Results:
    """Read all parts. Ten million items with three boxes each take about 2 GB.

    Args:
        output: Where the parts are.
        schema: Columns that are needed, ``request`` and ``error_code`` among them.

    Raises:
        StorageError: A part is damaged.
    """
    tables = [table.cast(schema) for table in _tables(output, schema.names)]
    rows = pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
    return Results(_sorted(rows.filter(pc.is_null(rows["error_code"]))), _sorted(rows.filter(pc.is_valid(rows["error_code"]))))


def _sorted(rows: pa.Table) -> tuple[IdSet, pa.Table]:
    """Sort rows by their request. Of equal ones the first stays the first, which is the one that is looked up."""
    requests = _hashes(rows)
    order = np.argsort(requests, kind="stable")
    return requests[order], rows.take(pa.array(order))


def _hashes(rows: pa.Table) -> IdSet:
    return np.frombuffer(b"".join(rows["request"].to_pylist()), dtype="S16")


def _tables(output: Output, columns: list[str]) -> Iterator[pa.Table]:
    """Yield these columns of all parts, the newest first: after a retry, a request has rows in several."""
    parts = output.files.list(join(output.folder, PARTS), suffixes=(".parquet",))
    for part in sorted(parts, key=lambda part: -part.modified):
        try:
            rows = pq.read_table(pa.BufferReader(output.files.read(part.uri)), columns=columns, page_checksum_verification=True)
            yield rows.select(columns)
        except (FetchError, pa.ArrowException, OSError, KeyError) as error:
            raise StorageError(f"{redact(part.uri)} is damaged; delete it and run the same command again") from error
