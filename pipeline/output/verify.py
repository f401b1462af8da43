"""Does the output keep its promise? One row an item, every object there and whole, nothing that nobody knows of."""

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
from pipeline.imaging.validate import fault
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.output.index import read_index
from pipeline.output.layout import OUTPUTS, Layout
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files
from pipeline.types import Size

COLUMNS = [
    *("item_id", "status", "error_code", "height", "width", "quality"),
    *(f"{output}_{fact}" for output in OUTPUTS for fact in ("uri", "bytes", "sha256")),
    "renditions",
]
URIS = (*(f"{output}_uri" for output in OUTPUTS), "renditions")
"""Columns in which objects are named; see ``uris``."""

_PLACE = r"^.*/(renditions/[^/]*/[^/]*/[^/]*)$|^.*/([^/]*/[^/]*/[^/]*)$"

CHUNK = 1024
"""Objects that are looked up together."""

EXAMPLES = 20
"""Findings of one kind that are named; the rest are counted."""

KINDS = {
    "twice": "an item has more than one row",
    "missing": "an item of the manifest has no row",
    "unknown": "a row's item is not in the manifest",
    "incoherent": "a row contradicts itself",
    "absent": "an object can't be read",
    "changed": "an object's size or SHA-256 isn't the row's",
    "undecodable": "an object is no whole file of the row's size and its name's format",
    "orphan": "an object belongs to no row",
}
"""What can be wrong. Orphans are no fault of a finished run's rows: ``matteline gc`` removes them."""


@dataclass
class VerifyReport:
    """What was checked and what was found."""

    rows: int = 0
    objects: int = 0
    object_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Findings by kind (``KINDS``); empty when all is well."""
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Nothing was found."""
        return not self.counts

    def find(self, kind: str, what: str, count: int = 1) -> None:
        """Note a finding."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        named = self.examples.setdefault(kind, [])
        if len(named) < EXAMPLES:
            named.append(what)


def verify(
    layout: Layout, files: Files, manifest: Manifest | None = None, *, sample: float = 1.0, threads: int = 16, seed: int = 0
) -> VerifyReport:
    """Check the index against itself, its manifest and the storage. Changes nothing.

    Args:
        manifest: what the rows are to be compared with; None leaves that out.
        sample: share of the rows whose objects are read; their presence among all objects is checked for every row.

    Raises:
        StorageError: the index or a listing can't be read.
    """
    verdict, rng = VerifyReport(), random.Random(seed)
    ids: list[IdSet] = []
    objects: list[IdSet] = []
    believed: list[IdSet] = []  # not read, so looked for in the listing
    with ThreadPoolExecutor(threads) as pool:
        for part in read_index(layout, files, COLUMNS):
            verdict.rows += part.num_rows
            ids.append(hash_ids(part["item_id"]))
            objects += [object_keys(named) for named in uris(part)]
            drawn = [rng.random() < sample for _ in range(part.num_rows)]
            unread = part.filter(pa.array([not is_drawn for is_drawn in drawn]))
            believed += [object_keys(named) for named in uris(unread)]
            for check in pool.map(partial(_check_row, files), part.to_pylist(), drawn):
                for kind, what in check.faults:
                    verdict.find(kind, what)
                verdict.objects += check.objects
                verdict.object_bytes += check.bytes
    known = merge_ids(ids)
    for item_id in _named(layout, files, duplicate_ids(known)):
        verdict.find("twice", item_id)
    if manifest is not None:
        _compare(verdict, known, manifest, layout, files)
    listed: list[IdSet] = []
    for info in orphans(layout, files, merge_ids(objects), listed):
        verdict.find("orphan", info.uri)
    looked_for = merge_ids(believed)
    for uri in _uris_of(layout, files, looked_for[~contains(merge_ids(listed), looked_for)]):
        verdict.find("absent", uri)
    return verdict


def orphans(layout: Layout, files: Files, known: IdSet, listed: list[IdSet] | None = None) -> Iterator[FileInfo]:
    """Objects that are not among the objects that the index names (``object_keys``).

    Args:
        listed: takes the keys of all that is there.

    Raises:
        StorageError: a folder can't be listed.
    """
    for folder in layout.objects:
        chunk: list[FileInfo] = []
        for info in files.list(folder):
            chunk.append(info)
            if len(chunk) == CHUNK:
                yield from _unknown(chunk, known, listed)
                chunk = []
        yield from _unknown(chunk, known, listed)


def uris(rows: pa.Table) -> Iterator[pa.Array | pa.ChunkedArray]:
    """The objects that rows (with the columns ``URIS``) name, without nulls."""
    for output in OUTPUTS:
        yield rows[f"{output}_uri"].drop_null()
    yield pc.struct_field(pc.list_flatten(rows["renditions"]), "uri").drop_null()


def object_keys(named: pa.Array | pa.ChunkedArray) -> IdSet:
    """IdSet of objects by their place in the recipe's folder: an output that was moved or copied knows its objects still."""
    return hash_ids(pc.replace_substring_regex(named, _PLACE, r"\1\2"))


def _unknown(chunk: list[FileInfo], known: IdSet, listed: list[IdSet] | None) -> Iterator[FileInfo]:
    if chunk:
        keys = object_keys(pa.array([info.uri for info in chunk]))
        found = contains(known, keys)
        if listed is not None:
            listed.append(keys)
        yield from (info for info, is_known in zip(chunk, found, strict=True) if not is_known)


@dataclass
class _RowCheck:
    faults: list[tuple[str, str]] = field(default_factory=list)
    objects: int = 0
    bytes: int = 0


class _Named(NamedTuple):
    """An object as a row tells of it."""

    uri: str
    bytes: int
    sha256: str
    height: int
    width: int


def _check_row(files: Files, row: dict[str, Any], read_objects: bool) -> _RowCheck:
    """What is wrong with one row and its objects."""
    check, item_id = _RowCheck(), row["item_id"]
    failed, renditions = row["status"] == "failed", row["renditions"] or []
    size = (row["height"], row["width"])
    outputs = [output for output in OUTPUTS if row[f"{output}_uri"] is not None]
    named = [_Named(row[f"{output}_uri"], row[f"{output}_bytes"], row[f"{output}_sha256"], *size) for output in outputs]
    named += [_Named(*(one[fact] for fact in _Named._fields)) for one in renditions if one["uri"] is not None]
    unexplained = [one["name"] for one in renditions if one["uri"] is None and not one["note"]]
    if failed != (row["error_code"] is not None) or failed == bool(named) or failed != (row["quality"] is None) or unexplained:
        found = outputs + [one["name"] for one in renditions]
        check.faults.append(("incoherent", f"{item_id}: status {row['status']}, error {row['error_code']}, objects {found}"))
    for one in named if read_objects else ():
        _check_object(files, item_id, one, check)
    return check


def _check_object(files: Files, item_id: str, named: _Named, check: _RowCheck) -> None:
    try:
        data = files.read(named.uri)
    except FetchError as error:
        check.faults.append(("absent", f"{item_id}: {error}"))
        return
    check.objects, check.bytes = check.objects + 1, check.bytes + len(data)
    if len(data) != named.bytes or hashlib.sha256(data).hexdigest() != named.sha256:
        check.faults.append(("changed", f"{item_id}: {named.uri}"))
    wrong = fault(data, named.uri.rpartition(".")[2], Size(named.height, named.width))
    if wrong:
        check.faults.append(("undecodable", f"{item_id}: {named.uri}: {wrong}"))


def _compare(verdict: VerifyReport, known: IdSet, manifest: Manifest, layout: Layout, files: Files) -> None:
    pieces = []
    for fragment in manifest.fragments:
        for items in read(manifest, fragment, files):
            asked = hash_ids(items["item_id"])
            pieces.append(asked)
            for item_id in items["item_id"].filter(pa.array(~contains(known, asked))).to_pylist():
                verdict.find("missing", item_id)
    wanted = merge_ids(pieces)
    surplus = known[~contains(wanted, known)]
    for item_id in _named(layout, files, surplus):
        verdict.find("unknown", item_id)


def _uris_of(layout: Layout, files: Files, keys: IdSet) -> Iterator[str]:
    """The objects' URIs in the index behind these keys; a second pass, made only when there is something to name."""
    if len(keys):
        for part in read_index(layout, files, URIS):
            for named in uris(part):
                yield from named.filter(pa.array(contains(keys, object_keys(named)))).to_pylist()


def _named(layout: Layout, files: Files, digests: IdSet) -> Iterator[str]:
    """The ids in the index behind these digests, once each; a second pass, made only when there is something to name."""
    if len(digests):
        seen: set[str] = set()
        for part in read_index(layout, files, ["item_id"]):
            ids = part["item_id"]
            seen |= set(ids.filter(pa.array(contains(digests, hash_ids(ids)))).to_pylist())
        yield from sorted(seen)
