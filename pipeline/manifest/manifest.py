"""Manifests: what is to be done, from Parquet, CSV or JSON Lines, or from a plain folder of images.

``open_manifest`` finds out what there is and cuts it into fragments, ``read`` turns one fragment into items, ``scan`` goes
through all of them once and refuses what can't be run. The same ``read`` serves the scan and the workers.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.manifest import tables
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.manifest.items import OWN, items
from pipeline.manifest.tables import ROWS, Fragment, TableKind
from pipeline.schema import carried_name
from pipeline.storage.allowlist import AllowList, OutsideRoots
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files
from pipeline.storage.uris import name, parent, shown

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".avif"),
)
"""What counts as an image in a folder, whatever the case."""

_TABLES: dict[str, TableKind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
}
# Too common for other things to count when a folder is looked through.
_NAMED_TABLES: dict[str, TableKind] = {".json": "jsonl", ".json.gz": "jsonl"}

_KINDS = "a .parquet, .csv, .jsonl or .ndjson file (.gz too for text), a folder or pattern of those, or a folder of images"


@dataclass(frozen=True)
class Manifest:
    """What is to be done, found but not yet read."""

    uri: str
    kind: Literal["parquet", "csv", "jsonl", "images"]
    base: str
    """The folder or prefix against which relative URIs resolve."""
    fragments: tuple[Fragment, ...]
    columns: pa.Schema
    """The further columns of all files taken together; of JSON Lines, all columns."""
    allowlist: AllowList
    """Where its images may lie."""

    @property
    def carried(self) -> pa.Schema:
        """The further columns as they travel to the index."""
        return pa.schema(
            [
                pa.field(
                    carried_name(field.name),
                    pa.string() if pa.types.is_null(field.type) else field.type,
                    metadata=field.metadata,
                )
                for field in self.columns
                if field.name not in OWN
            ]
        )


@dataclass(frozen=True)
class Scan:
    """A manifest read through once."""

    rows: int
    with_box: int
    refused: int
    """Rows that can't be used as they are; they become failed items."""
    ids: IdSet
    """Sorted."""
    outside_roots: OutsideRoots
    """Those of them whose image lies outside the allowed roots."""


def open_manifest(uri: str, files: Files) -> Manifest:
    """Find a manifest's files, columns and fragments.

    Raises:
        ConfigError: of no known kind, empty, damaged, mixed, or without a column ``image_uri``; an allowed root is none.
        StorageError: it is missing or can't be read.
    """
    uri = files.absolute(uri)
    if re.search(r"[*?\[]", uri) and not files.exists(uri):
        return _from_pattern(uri, files)
    files.check_readable(uri)
    return _from_file(uri, files) if files.exists(uri) else _from_folder(uri, files)


def read(manifest: Manifest, fragment: Fragment, files: Files, outside_roots: OutsideRoots | None = None) -> Iterator[pa.Table]:
    """A fragment's items in tables of about 8192: schema ITEM, then the carried columns.

    Args:
        strays: counts the rows whose image lies outside the allowed roots.

    Raises:
        ConfigError: the file changed or broke since the manifest was opened.
    """
    carried = manifest.carried
    if manifest.kind == "images":
        paths = json.loads(zlib.decompress(fragment.names))
        full = [f"{fragment.uri.rstrip('/')}/{path}" for path in paths]
        yield items(
            pa.table({"image_uri": full, "item_id": paths}), manifest.base, carried, "", 1, manifest.allowlist, outside_roots
        )
        return
    row = fragment.first_row
    file = _below(fragment.uri, manifest.base)
    for table in tables.rows(manifest.kind, fragment, manifest.columns, files):
        yield items(table, manifest.base, carried, file, row, manifest.allowlist, outside_roots)
        row += table.num_rows


def scan(manifest: Manifest, files: Files) -> Scan:
    """Read the whole manifest, keeping 16 bytes an item.

    Raises:
        ConfigError: it has no rows, an item id twice, or a damaged file.
    """
    with_box = refused = 0
    pieces: list[IdSet] = []
    outside_roots = OutsideRoots()
    for table in _read_all(manifest, files, outside_roots):
        pieces.append(hash_ids(table["item_id"]))
        with_box += table.num_rows - table["box"].null_count
        refused += table.num_rows - table["error_code"].null_count
    ids = merge_ids(pieces)
    if not len(ids):
        raise ConfigError(f"the manifest {shown(manifest.uri)} is empty; it needs at least one row with an image_uri")
    twice = duplicate_ids(ids)
    if len(twice):
        raise ConfigError(_about_duplicates(manifest, twice, files))
    return Scan(len(ids), with_box, refused, ids, outside_roots)


def _read_all(manifest: Manifest, files: Files, outside_roots: OutsideRoots | None = None) -> Iterator[pa.Table]:
    for fragment in manifest.fragments:
        yield from read(manifest, fragment, files, outside_roots)


def _about_duplicates(manifest: Manifest, twice: IdSet, files: Files) -> str:
    """Only now are the ids themselves looked up, so that the first pass need not hold them."""
    found: dict[str, None] = {}
    for table in _read_all(manifest, files):
        ids = table["item_id"]
        found |= dict.fromkeys(ids.filter(pa.array(contains(twice, hash_ids(ids)))).to_pylist())
        if len(found) >= 3:
            break
    named = ", ".join(repr(item_id[:100]) for item_id in list(found)[:3]) + (", …" if len(twice) > 3 else "")
    count = "1 item id stands" if len(twice) == 1 else f"{len(twice)} item ids stand"
    return (
        f"{count} more than once in the manifest {shown(manifest.uri)}: {named}; every row needs an item_id of its own "
        "(without that column, an image_uri and box of its own)"
    )


def _from_file(uri: str, files: Files) -> Manifest:
    kind = _table_kind(uri, {**_TABLES, **_NAMED_TABLES})
    if kind is None:
        hint = "; for a single image, give its folder" if uri.lower().endswith(IMAGE_SUFFIXES) else ""
        raise ConfigError(f"{shown(uri)} is no manifest that can be read: give {_KINDS}{hint}")
    return _from_tables(uri, kind, parent(uri), [uri], files)


def _from_pattern(uri: str, files: Files) -> Manifest:
    found = files.glob(uri)
    if not found:
        raise ConfigError(f"no file matches {shown(uri)}; correct the pattern")
    kinds = {_table_kind(path, {**_TABLES, **_NAMED_TABLES}) for path in found}
    if kinds == {None} and all(path.lower().endswith(IMAGE_SUFFIXES) for path in found):
        raise ConfigError(f"{shown(uri)} matches images; give their folder instead of a pattern")
    kind = kinds.pop()
    if kind is None or kinds:
        raise ConfigError(f"{shown(uri)} matches files of several kinds; a manifest is {_KINDS}")
    base = parent(re.split(r"[*?\[]", uri, maxsplit=1)[0] + "-")
    return _from_tables(uri, kind, base, list(found), files)


def _from_folder(uri: str, files: Files) -> Manifest:
    """A folder is what its files are: tables of one kind, or images."""
    listing = _Listing(uri)
    by_kind: dict[TableKind, list[str]] = {}
    for info in files.list(uri):
        kind = _table_kind(info.uri, _TABLES)
        if info.uri.lower().endswith(IMAGE_SUFFIXES):
            listing.add(info)
        elif kind is not None and not name(info.uri).startswith("_"):
            by_kind.setdefault(kind, []).append(info.uri)
    fragments = listing.close()
    if fragments and by_kind:
        example = next(iter(by_kind.values()))[0]
        raise ConfigError(
            f"{shown(uri)} holds both images and tables; name the manifest itself, such as {shown(example)}, "
            "or move the tables elsewhere"
        )
    if len(by_kind) > 1:
        raise ConfigError(f"{shown(uri)} holds {' and '.join(sorted(by_kind))} files; a manifest is of one kind")
    if by_kind:
        ((kind, found),) = by_kind.items()
        return _from_tables(uri, kind, uri, found, files)
    if not fragments:
        raise ConfigError(f"{shown(uri)} holds neither images nor a manifest; give {_KINDS}")
    return Manifest(uri, "images", uri, fragments, pa.schema([]), AllowList.of(files.storage, uri))


def _from_tables(uri: str, kind: TableKind, base: str, found: list[str], files: Files) -> Manifest:
    columns, fragments = tables.columns(kind, found, files)
    return Manifest(uri, kind, base, tuple(fragments), columns, AllowList.of(files.storage, base))


def _below(uri: str, folder: str) -> str:
    return uri.removeprefix(f"{folder.rstrip('/')}/")


def _table_kind(uri: str, suffixes: dict[str, TableKind]) -> TableKind | None:
    return next((kind for suffix, kind in suffixes.items() if uri.lower().endswith(suffix)), None)


class _Listing:
    """Image paths below a folder, packed as they come: ten million take some 100 MB."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._paths: list[str] = []
        self._fragments: list[Fragment] = []

    def add(self, info: FileInfo) -> None:
        # A name that isn't UTF-8 can't stand in a table: its item will say that no such file exists.
        self._paths.append(_below(info.uri, self.folder).encode("utf-8", "backslashreplace").decode())
        if len(self._paths) == ROWS:
            self._pack()

    def close(self) -> tuple[Fragment, ...]:
        if self._paths:
            self._pack()
        return tuple(self._fragments)

    def _pack(self) -> None:
        packed = zlib.compress(json.dumps(self._paths, ensure_ascii=False).encode(), 1)
        self._fragments.append(Fragment(self.folder, names=packed))
        self._paths = []
