"""Verify an output: one row per item, each object present and intact, no object without a row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import FetchError
from pipeline.imaging.validate import validation_error
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.output.index import read_index
from pipeline.output.layout import OUTPUTS
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files
from pipeline.types import Size

COLUMNS = [
    *("item_id", "status", "error_code", "height", "width", "quality"),
    *(f"{output}_{fact}" for output in OUTPUTS for fact in ("uri", "bytes", "sha256")),
    "renditions",
]
URIS = (*(f"{output}_uri" for output in OUTPUTS), "renditions")
"""Columns that name objects; see ``object_uris``."""

_OBJECT_KEY = r"^.*/(renditions/[^/]*/[^/]*/[^/]*)$|^.*/([^/]*/[^/]*/[^/]*)$"

CHUNK = 1024
"""Objects that are looked up together."""

MAX_EXAMPLES = 20
"""Findings of one kind that are named. The others are counted."""

KINDS = {
    "twice": "an item has more than one row",
    "missing": "an item of the manifest has no row",
    "unknown": "a row's item is not in the manifest",
    "incoherent": "the columns of a row contradict each other",
    "absent": "an object cannot be read",
    "changed": "an object's size or SHA-256 differs from the row's",
    "undecodable": "an object is truncated, or its size or format differs from the row's",
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

    @property
    def sound(self) -> bool:
        """Whether there are no findings."""
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
    report, rng = VerifyReport(), random.Random(seed)
    ids: list[IdSet] = []
    objects: list[IdSet] = []
    unread: list[IdSet] = []
    with ThreadPoolExecutor(threads) as pool:
        for part in read_index(output, COLUMNS):
            report.rows += part.num_rows
            ids.append(hash_ids(part["item_id"]))
            objects += [object_keys(uris) for uris in object_uris(part)]
            sampled = [rng.random() < sample for _ in range(part.num_rows)]
            rest = part.filter(pa.array([not is_sampled for is_sampled in sampled]))
            unread += [object_keys(uris) for uris in object_uris(rest)]
            for check in pool.map(partial(_check_row, output.files), part.to_pylist(), sampled):
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
    for uri in _uris_of(output, expected[~contains(merge_ids(listed), expected)]):
        report.add("absent", uri)
    return report


def orphans(output: Output, known: IdSet, listed: list[IdSet] | None = None) -> Iterator[FileInfo]:
    """Yield objects that are not among ``known``, the ``object_keys`` of the index. ``listed`` receives all keys.

    Raises:
        StorageError: A folder cannot be listed.
    """
    for folder in output.layout.objects:
        chunk: list[FileInfo] = []
        for info in output.files.list(folder):
            chunk.append(info)
            if len(chunk) == CHUNK:
                yield from _unknown(chunk, known, listed)
                chunk = []
        yield from _unknown(chunk, known, listed)


def object_uris(rows: pa.Table) -> Iterator[pa.Array | pa.ChunkedArray]:
    """Yield the URIs of the objects of rows that have the columns ``URIS``, without nulls."""
    for output in OUTPUTS:
        yield rows[f"{output}_uri"].drop_null()
    yield pc.struct_field(pc.list_flatten(rows["renditions"]), "uri").drop_null()


def object_keys(uris: pa.Array | pa.ChunkedArray) -> IdSet:
    """Hash objects by their path below the recipe's folder, so that an output may be moved or copied."""
    return hash_ids(pc.replace_substring_regex(uris, _OBJECT_KEY, r"\1\2"))


def _unknown(chunk: list[FileInfo], known: IdSet, listed: list[IdSet] | None) -> Iterator[FileInfo]:
    if chunk:
        keys = object_keys(pa.array([info.uri for info in chunk]))
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

    uri: str
    bytes: int
    sha256: str
    height: int
    width: int


def _check_row(files: Files, row: dict[str, Any], read_objects: bool) -> _RowCheck:
    check, item_id = _RowCheck(), row["item_id"]
    failed, renditions = row["status"] == "failed", row["renditions"] or []
    size = (row["height"], row["width"])
    outputs = [output for output in OUTPUTS if row[f"{output}_uri"] is not None]
    objects = [_Object(row[f"{output}_uri"], row[f"{output}_bytes"], row[f"{output}_sha256"], *size) for output in outputs]
    objects += [_Object(*(one[fact] for fact in _Object._fields)) for one in renditions if one["uri"] is not None]
    unexplained = [one["name"] for one in renditions if one["uri"] is None and not one["note"]]
    wrong = failed != (row["error_code"] is not None) or failed == bool(objects) or failed != (row["quality"] is None)
    if wrong or unexplained:
        names = outputs + [one["name"] for one in renditions]
        facts = f"status {row['status']}, error {row['error_code']}, objects {names}"
        check.findings.append(("incoherent", f"{item_id}: {facts}"))
    for one in objects if read_objects else ():
        _check_object(files, item_id, one, check)
    return check


def _check_object(files: Files, item_id: str, expected: _Object, check: _RowCheck) -> None:
    try:
        data = files.read(expected.uri)
    except FetchError as error:
        check.findings.append(("absent", f"{item_id}: {error}"))
        return
    check.objects, check.bytes = check.objects + 1, check.bytes + len(data)
    if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
        check.findings.append(("changed", f"{item_id}: {expected.uri}"))
    reason = validation_error(data, expected.uri.rpartition(".")[2], Size(expected.height, expected.width))
    if reason:
        check.findings.append(("undecodable", f"{item_id}: {expected.uri}: {reason}"))


def _compare(report: VerifyReport, known: IdSet, manifest: Manifest, output: Output) -> None:
    pieces = []
    for fragment in manifest.fragments:
        for items in read(manifest, fragment, output.files):
            hashes = hash_ids(items["item_id"])
            pieces.append(hashes)
            for item_id in items["item_id"].filter(pa.array(~contains(known, hashes))).to_pylist():
                report.add("missing", item_id)
    for item_id in _item_ids(output, known[~contains(merge_ids(pieces), known)]):
        report.add("unknown", item_id)


def _uris_of(output: Output, keys: IdSet) -> Iterator[str]:
    """Yield the URIs of these objects. Reads the index again, if there are any keys."""
    if len(keys):
        for part in read_index(output, URIS):
            for uris in object_uris(part):
                yield from uris.filter(pa.array(contains(keys, object_keys(uris)))).to_pylist()


def _item_ids(output: Output, hashes: IdSet) -> list[str]:
    """Return the distinct item ids with these hashes. Reads the index again, if there are any."""
    found: set[str] = set()
    for part in read_index(output, ["item_id"]) if len(hashes) else ():
        ids = part["item_id"]
        found |= set(ids.filter(pa.array(contains(hashes, hash_ids(ids)))).to_pylist())
    return sorted(found)
