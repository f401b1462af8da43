"""Does the output keep its promise? One row an item, every object there and whole, nothing that nobody knows of."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import FetchError
from pipeline.imaging.published import png_fault
from pipeline.storage.digests import Digests, contains, digest, gather, repeated
from pipeline.storage.files import Files
from pipeline.storage.index import read_index
from pipeline.storage.layout import Layout
from pipeline.storage.manifest import Manifest, read
from pipeline.storage.place import FileInfo

OUTPUTS = ("mask", "cutout")
COLUMNS = [
    *("item_id", "status", "error_code", "height", "width", "quality"),
    *(f"{output}_{fact}" for output in OUTPUTS for fact in ("uri", "bytes", "sha256")),
]
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
    "undecodable": "an object is no PNG of the row's size",
    "orphan": "an object belongs to no row",
}
"""What can be wrong. Orphans are no fault of a finished run's rows: ``matteline gc`` removes them."""


@dataclass
class Verdict:
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
) -> Verdict:
    """Check the index against itself, its manifest and the storage. Changes nothing.

    Args:
        manifest: what the rows are to be compared with; None leaves that out.
        sample: share of the rows whose objects are read; their presence among all objects is checked for every row.

    Raises:
        StorageError: the index or a listing can't be read.
    """
    verdict, rng = Verdict(), random.Random(seed)
    ids: list[Digests] = []
    objects: list[Digests] = []
    believed: list[Digests] = []  # not read, so looked for in the listing
    with ThreadPoolExecutor(threads) as pool:
        for part in read_index(layout, files, COLUMNS):
            verdict.rows += part.num_rows
            ids.append(digest(part["item_id"]))
            for output in OUTPUTS:
                objects.append(object_keys(part[f"{output}_uri"]))
            drawn = [rng.random() < sample for _ in range(part.num_rows)]
            unread = part.filter(pa.array([not is_drawn for is_drawn in drawn]))
            believed += [object_keys(unread[f"{output}_uri"]) for output in OUTPUTS]
            for fault in pool.map(partial(_check_row, files), part.to_pylist(), drawn):
                for kind, what in fault.faults:
                    verdict.find(kind, what)
                verdict.objects += fault.objects
                verdict.object_bytes += fault.bytes
    known = gather(ids)
    for item_id in _named(layout, files, repeated(known)):
        verdict.find("twice", item_id)
    if manifest is not None:
        _compare(verdict, known, manifest, layout, files)
    listed: list[Digests] = []
    for info in orphans(layout, files, gather(objects), listed):
        verdict.find("orphan", info.uri)
    looked_for = gather(believed)
    for uri in _uris_of(layout, files, looked_for[~contains(gather(listed), looked_for)]):
        verdict.find("absent", uri)
    return verdict


def orphans(layout: Layout, files: Files, known: Digests, listed: list[Digests] | None = None) -> Iterator[FileInfo]:
    """Masks and cutouts that are not among the objects that the index names (``object_keys``).

    Args:
        listed: takes the keys of all that is there.

    Raises:
        StorageError: a folder can't be listed.
    """
    for folder in (layout.masks, layout.cutouts):
        chunk: list[FileInfo] = []
        for info in files.list(folder):
            chunk.append(info)
            if len(chunk) == CHUNK:
                yield from _unknown(chunk, known, listed)
                chunk = []
        yield from _unknown(chunk, known, listed)


def object_keys(uris: pa.Array | pa.ChunkedArray) -> Digests:
    """Digests of objects by their place in the recipe's folder: an output that was moved or copied knows its objects still."""
    return digest(pc.replace_substring_regex(uris.drop_null(), r"^.*/([^/]*/[^/]*/[^/]*)$", r"\1"))


def _unknown(chunk: list[FileInfo], known: Digests, listed: list[Digests] | None) -> Iterator[FileInfo]:
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


def _check_row(files: Files, row: dict[str, Any], read_objects: bool) -> _RowCheck:
    """What is wrong with one row and its objects."""
    check, item_id = _RowCheck(), row["item_id"]
    failed = row["status"] == "failed"
    named = [output for output in OUTPUTS if row[f"{output}_uri"] is not None]
    if failed != (row["error_code"] is not None) or failed == bool(named) or failed != (row["quality"] is None):
        check.faults.append(("incoherent", f"{item_id}: status {row['status']}, error {row['error_code']}, objects {named}"))
    for output in named if read_objects else ():
        uri = row[f"{output}_uri"]
        try:
            data = files.read(uri)
        except FetchError as error:
            check.faults.append(("absent", f"{item_id}: {error}"))
            continue
        check.objects, check.bytes = check.objects + 1, check.bytes + len(data)
        if len(data) != row[f"{output}_bytes"] or hashlib.sha256(data).hexdigest() != row[f"{output}_sha256"]:
            check.faults.append(("changed", f"{item_id}: {uri}"))
        fault = png_fault(data, row["height"], row["width"])
        if fault:
            check.faults.append(("undecodable", f"{item_id}: {uri}: {fault}"))
    return check


def _compare(verdict: Verdict, known: Digests, manifest: Manifest, layout: Layout, files: Files) -> None:
    pieces = []
    for fragment in manifest.fragments:
        for items in read(manifest, fragment, files):
            asked = digest(items["item_id"])
            pieces.append(asked)
            for item_id in items["item_id"].filter(pa.array(~contains(known, asked))).to_pylist():
                verdict.find("missing", item_id)
    wanted = gather(pieces)
    surplus = known[~contains(wanted, known)]
    for item_id in _named(layout, files, surplus):
        verdict.find("unknown", item_id)


def _uris_of(layout: Layout, files: Files, keys: Digests) -> Iterator[str]:
    """The objects' URIs in the index behind these keys; a second pass, made only when there is something to name."""
    if len(keys):
        for part in read_index(layout, files, [f"{output}_uri" for output in OUTPUTS]):
            for output in OUTPUTS:
                uris = part[f"{output}_uri"].drop_null()
                yield from uris.filter(pa.array(contains(keys, object_keys(uris)))).to_pylist()


def _named(layout: Layout, files: Files, digests: Digests) -> Iterator[str]:
    """The ids in the index behind these digests, once each; a second pass, made only when there is something to name."""
    if len(digests):
        seen: set[str] = set()
        for part in read_index(layout, files, ["item_id"]):
            ids = part["item_id"]
            seen |= set(ids.filter(pa.array(contains(digests, digest(ids)))).to_pylist())
        yield from sorted(seen)
