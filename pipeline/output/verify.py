"""Verify an output: one row per item, each object present and intact, no object without a row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import FetchError
from pipeline.imaging.validate import validation_error
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.sample import Sample
from pipeline.output.identity import other_images
from pipeline.output.index import drop_rows, read_index, remove_unreadable_parts
from pipeline.output.layout import OUTPUTS
from pipeline.output.lease import Lease
from pipeline.output.output import Output
from pipeline.output.settings import object_folders, read_settings
from pipeline.storage.backend import FileInfo
from pipeline.types import Size

COLUMNS = [
    *("item_id", "status", "error_code", "height", "width", "quality"),
    *(f"{output}_{fact}" for output in OUTPUTS for fact in ("path", "bytes", "sha256")),
    "renditions",
]
PATHS = (*(f"{output}_path" for output in OUTPUTS), "renditions")
"""Columns that name objects; see ``object_paths``."""

CHUNK = 1024
"""Objects that are looked up together."""

MAX_EXAMPLES = 20
"""Findings of one kind that are named. The others are counted."""

KINDS = {
    "twice": "an item has more than one row",
    "missing": "an item of the manifest has no row",
    "unknown": "a row's item is not in the manifest",
    "other": "a row is of another image or box than the manifest's (of a sample of 4,096 items)",
    "incoherent": "the columns of a row contradict each other",
    "absent": "an object cannot be read",
    "changed": "an object's size or SHA-256 differs from the row's",
    "undecodable": "an object is truncated, or its size or format differs from the row's",
    "unreadable": "an index part cannot be read",
    "orphan": "an object belongs to no row; matteline gc removes it",
}
"""Kinds of findings."""


@dataclass
class VerifyReport:
    """Numbers and findings of a verification."""

    rows: int = 0
    objects: int = 0
    """Objects that were read."""
    object_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Findings by kind (``KINDS``). Empty if there are none."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    repaired: int = 0
    """Items whose rows ``repair`` removed, so that the next run processes them again."""

    @property
    def sound(self) -> bool:
        """Return True if there are no findings."""
        return not self.counts

    def add(self, kind: str, example: str) -> None:
        """Add a finding."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        named = self.examples.setdefault(kind, [])
        if len(named) < MAX_EXAMPLES:
            named.append(example)


def verify(
    output: Output, manifest: Manifest | None = None, *, sample: float = 1.0, threads: int = 16, seed: int = 0
) -> VerifyReport:
    """Check the index against itself, its manifest (if given) and the storage. Changes nothing.

    ``sample`` is the share of the rows whose objects are read. The objects of all rows are looked up in the listing.

    Raises:
        StorageError: The index or a listing cannot be read.
    """
    return _verify(output, manifest, sample, threads, seed)[0]


def repair(output: Output, run_id: str, manifest: Manifest | None = None, *, threads: int = 16) -> VerifyReport:
    """Verify all objects, and remove damaged items and unreadable parts from the index. The next run makes them again.

    Raises:
        LeaseHeld: A run is active in the output.
        StorageError: The storage cannot be read or written.
    """
    with Lease(output, run_id) as lease:
        unreadable = remove_unreadable_parts(output)
        report, damaged = _verify(output, manifest, 1.0, threads, 0)
        lease.check()
        report.repaired = drop_rows(output, damaged)
        for part in unreadable:
            report.add("unreadable", part)
        for note in list(output.files.list(output.layout.overwrites)):
            output.files.delete(note.uri)  # every object was read, so nothing is left to check
    return report


def _verify(output: Output, manifest: Manifest | None, sample: float, threads: int, seed: int) -> tuple[VerifyReport, IdSet]:
    """Return the report, and the sorted ids of items whose objects are damaged or missing."""
    report, rng = VerifyReport(), random.Random(seed)
    ids: list[IdSet] = []
    objects: list[IdSet] = []
    unread: list[IdSet] = []
    damaged: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for part in read_index(output, COLUMNS):
            report.rows += part.num_rows
            ids.append(hash_ids(part["item_id"]))
            objects += [hash_ids(paths) for paths in object_paths(part)]
            sampled = [rng.random() < sample for _ in range(part.num_rows)]
            rest = part.filter(pa.array([not is_sampled for is_sampled in sampled]))
            unread += [hash_ids(paths) for paths in object_paths(rest)]
            rows = part.to_pylist()
            for row, check in zip(rows, pool.map(partial(_check_row, output), rows, sampled), strict=True):
                damaged += [row["item_id"]] * bool(check.findings)
                for kind, example in check.findings:
                    report.add(kind, example)
                report.objects += check.objects
                report.object_bytes += check.bytes
    known = merge_ids(ids)
    for item_id in _item_ids(output, duplicate_ids(known)):
        report.add("twice", item_id)
    if manifest is not None:
        _compare(report, known, manifest, output)
    listed: list[IdSet] = []
    for info in orphans(output, merge_ids(objects), listed):
        report.add("orphan", info.uri)
    expected = merge_ids(unread)
    for path in _paths_of(output, expected[~contains(merge_ids(listed), expected)]):
        report.add("absent", path)
    return report, np.sort(hash_ids(pa.array(damaged, pa.string())))


def orphans(output: Output, known: IdSet, listed: list[IdSet] | None = None) -> Iterator[FileInfo]:
    """Yield objects that are not among ``known``, the hashed paths of the index. ``listed`` receives all hashes.

    Raises:
        StorageError: A folder cannot be listed.
    """
    for folder in object_folders(read_settings(output)):
        chunk: list[FileInfo] = []
        for info in output.files.list(output.layout.uri(folder)):
            chunk.append(info)
            if len(chunk) == CHUNK:
                yield from _unknown(output, chunk, known, listed)
                chunk = []
        yield from _unknown(output, chunk, known, listed)


def object_paths(rows: pa.Table) -> Iterator[pa.Array | pa.ChunkedArray]:
    """Yield the paths of the objects of rows that have the columns ``PATHS``, without nulls."""
    for output in OUTPUTS:
        yield rows[f"{output}_path"].drop_null()
    yield pc.struct_field(pc.list_flatten(rows["renditions"]), "path").drop_null()


def _unknown(output: Output, chunk: list[FileInfo], known: IdSet, listed: list[IdSet] | None) -> Iterator[FileInfo]:
    if chunk:
        prefix = f"{output.folder}/"
        keys = hash_ids(pa.array([info.uri.removeprefix(prefix) for info in chunk], pa.string()))
        if listed is not None:
            listed.append(keys)
        yield from (info for info, is_known in zip(chunk, contains(known, keys), strict=True) if not is_known)


@dataclass
class _RowCheck:
    findings: list[tuple[str, str]] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0


class _Object(NamedTuple):
    """An object as its row describes it."""

    path: str
    bytes: int
    sha256: str
    height: int
    width: int


def _check_row(output: Output, row: dict[str, Any], read_objects: bool) -> _RowCheck:
    check, item_id = _RowCheck(), row["item_id"]
    failed, renditions = row["status"] == "failed", row["renditions"] or []
    size = (row["height"], row["width"])
    outputs = [one for one in OUTPUTS if row[f"{one}_path"] is not None]
    objects = [_Object(row[f"{one}_path"], row[f"{one}_bytes"], row[f"{one}_sha256"], *size) for one in outputs]
    objects += [_Object(*(one[fact] for fact in _Object._fields)) for one in renditions if one["path"] is not None]
    unexplained = [one["name"] for one in renditions if one["path"] is None and not one["note"]]
    wrong = failed != (row["error_code"] is not None) or failed == bool(objects) or failed != (row["quality"] is None)
    if wrong or unexplained:
        names = outputs + [one["name"] for one in renditions]
        facts = f"status {row['status']}, error {row['error_code']}, objects {names}"
        check.findings.append(("incoherent", f"{item_id}: {facts}"))
    for one in objects if read_objects else ():
        _check_object(output, item_id, one, check)
    return check


def _check_object(output: Output, item_id: str, expected: _Object, check: _RowCheck) -> None:
    try:
        data = output.read(expected.path)
    except FetchError as error:
        check.findings.append(("absent", f"{item_id}: {error}"))
        return
    check.objects, check.bytes = check.objects + 1, check.bytes + len(data)
    if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
        check.findings.append(("changed", f"{item_id}: {expected.path}"))
    reason = validation_error(data, expected.path.rpartition(".")[2], Size(expected.height, expected.width))
    if reason:
        check.findings.append(("undecodable", f"{item_id}: {expected.path}: {reason}"))


def _compare(report: VerifyReport, known: IdSet, manifest: Manifest, output: Output) -> None:
    pieces, sample = [], Sample()
    for fragment in manifest.fragments:
        for items in read(manifest, fragment, output.files):
            hashes = hash_ids(items["item_id"])
            pieces.append(hashes)
            sample.add(items, hashes)
            for item_id in items["item_id"].filter(pa.array(~contains(known, hashes))).to_pylist():
                report.add("missing", item_id)
    for item_id in _item_ids(output, known[~contains(merge_ids(pieces), known)]):
        report.add("unknown", item_id)
    for request in other_images(sample.by_id(), manifest, output):
        report.add("other", request.item_id)


def _paths_of(output: Output, keys: IdSet) -> Iterator[str]:
    """Yield the paths of these objects. Reads the index again, if there are any keys."""
    if len(keys):
        for part in read_index(output, PATHS):
            for paths in object_paths(part):
                yield from paths.filter(pa.array(contains(keys, hash_ids(paths)))).to_pylist()


def _item_ids(output: Output, hashes: IdSet) -> list[str]:
    """Return the distinct item ids with these hashes. Reads the index again, if there are any."""
    found: set[str] = set()
    for part in read_index(output, ["item_id"]) if len(hashes) else ():
        ids = part["item_id"]
        found |= set(ids.filter(pa.array(contains(hashes, hash_ids(ids)))).to_pylist())
    return sorted(found)
