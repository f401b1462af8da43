"""Open, read and scan manifests: Parquet, CSV or JSON Lines files, or a folder of images.

``open_manifest`` finds the files and divides them into fragments, ``read`` converts a fragment to items, and ``scan`` reads
all fragments once and refuses what can't be run. The driver's scan and the workers use the same ``read``.
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
from pipeline.manifest.items import OWN_COLUMNS, items
from pipeline.manifest.tables import ROWS, Fragment, TableKind
from pipeline.schema import carried_name
from pipeline.storage.allowlist import AllowList, OutsideRoots
from pipeline.storage.files import Files
from pipeline.storage.uris import name, parent, redact

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".avif"),
)
"""Suffixes of images in a folder, regardless of case."""

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
# In a folder, files of these names are ignored, since most JSON files are not manifests.
_NAMED_TABLES: dict[str, TableKind] = {".json": "jsonl", ".json.gz": "jsonl"}

_KINDS = "a .parquet, .csv, .jsonl or .ndjson file (.gz too for text), a folder or pattern of those, or a folder of images"


@dataclass(frozen=True)
class Manifest:
    """The location and the columns of a manifest. Its items are not read yet."""

    uri: str
    kind: Literal["parquet", "csv", "jsonl", "images"]
    base: str
    """Folder or prefix of relative URIs."""
    fragments: tuple[Fragment, ...]
    columns: pa.Schema
    """Carried columns of all files together (JSON Lines: all columns)."""
    allowlist: AllowList
    """Allowed locations of its images."""

    @property
    def carried(self) -> pa.Schema:
        """The carried columns as they appear in the index."""
        fields = [field.with_nullable(True) for field in self.columns if field.name not in OWN_COLUMNS]
        fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in fields]
        return pa.schema([field.with_name(carried_name(field.name)) for field in fields])


@dataclass(frozen=True)
class Scan:
    """The result of reading a manifest once."""

    rows: int
    with_box: int
    refused: int
    """Unusable rows, which become failed items."""
    ids: IdSet
    """Sorted."""
    outside_roots: OutsideRoots
    """Those of the refused rows whose image is outside the allowed roots."""


def open_manifest(uri: str, files: Files) -> Manifest:
    """Find a manifest's files, columns and fragments.

    Raises:
        ConfigError: It is of an unknown kind, empty, damaged, mixed, or without ``image_uri``; or an allowed root is invalid.
        StorageError: It is missing or can't be read.
    """
    uri = files.absolute(uri)
    if re.search(r"[*?\[]", uri) and not files.exists(uri):
        return _from_pattern(uri, files)
    files.check_readable(uri)
    return _from_file(uri, files) if files.exists(uri) else _from_folder(uri, files)


def read(manifest: Manifest, fragment: Fragment, files: Files, outside_roots: OutsideRoots | None = None) -> Iterator[pa.Table]:
    """Read a fragment's items in tables of about 8192: schema ITEM, then the carried columns.

    ``outside_roots`` counts the rows whose image is outside the allowed roots.

    Raises:
        ConfigError: The file was changed or damaged after the manifest was opened.
    """
    carried, allowlist = manifest.carried, manifest.allowlist
    if manifest.kind == "images":
        paths = json.loads(zlib.decompress(fragment.names))
        table = pa.table({"image_uri": [f"{fragment.uri.rstrip('/')}/{path}" for path in paths], "item_id": paths})
        yield items(table, manifest.base, carried, "", 1, allowlist, outside_roots)
        return
    row = fragment.first_row
    file = _relative(fragment.uri, manifest.base)
    for table in tables.read_rows(manifest.kind, fragment, manifest.columns, files):
        yield items(table, manifest.base, carried, file, row, allowlist, outside_roots)
        row += table.num_rows


def scan(manifest: Manifest, files: Files) -> Scan:
    """Read the complete manifest and keep 16 bytes per item.

    Raises:
        ConfigError: It has no rows, duplicate ids, or a damaged file.
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
        raise ConfigError(f"the manifest {redact(manifest.uri)} is empty; it needs at least one row with an image_uri")
    duplicates = duplicate_ids(ids)
    if len(duplicates):
        raise ConfigError(_describe_duplicates(manifest, duplicates, files))
    return Scan(len(ids), with_box, refused, ids, outside_roots)


def _read_all(manifest: Manifest, files: Files, outside_roots: OutsideRoots | None = None) -> Iterator[pa.Table]:
    for fragment in manifest.fragments:
        yield from read(manifest, fragment, files, outside_roots)


def _describe_duplicates(manifest: Manifest, duplicates: IdSet, files: Files) -> str:
    """Read the manifest again to find the ids themselves, since the scan keeps only their hashes."""
    examples: dict[str, None] = {}
    for table in _read_all(manifest, files):
        ids = table["item_id"]
        examples |= dict.fromkeys(ids.filter(pa.array(contains(duplicates, hash_ids(ids)))).to_pylist())
        if len(examples) >= 3:
            break
    listed = ", ".join(repr(item_id[:100]) for item_id in list(examples)[:3]) + (", …" if len(duplicates) > 3 else "")
    count = "1 item id occurs" if len(duplicates) == 1 else f"{len(duplicates)} item ids occur"
    return (
        f"{count} more than once in the manifest {redact(manifest.uri)}: {listed}; give each row a unique item_id "
        "(without that column, a unique combination of image_uri and box)"
    )


def _from_file(uri: str, files: Files) -> Manifest:
    kind = _table_kind(uri, _TABLES | _NAMED_TABLES)
    if kind is None:
        hint = "; for a single image, give its folder" if uri.lower().endswith(IMAGE_SUFFIXES) else ""
        raise ConfigError(f"{redact(uri)} is not a manifest: give {_KINDS}{hint}")
    return _from_tables(uri, kind, parent(uri), [uri], files)


def _from_pattern(uri: str, files: Files) -> Manifest:
    paths = files.glob(uri)
    if not paths:
        raise ConfigError(f"no file matches {redact(uri)}; correct the pattern")
    kinds = {_table_kind(path, _TABLES | _NAMED_TABLES) for path in paths}
    if kinds == {None} and all(path.lower().endswith(IMAGE_SUFFIXES) for path in paths):
        raise ConfigError(f"{redact(uri)} matches images; give their folder instead of a pattern")
    kind = kinds.pop()
    if kind is None or kinds:
        raise ConfigError(f"{redact(uri)} matches files of several kinds; a manifest is {_KINDS}")
    base = parent(re.split(r"[*?\[]", uri, maxsplit=1)[0] + "-")
    return _from_tables(uri, kind, base, list(paths), files)


def _from_folder(uri: str, files: Files) -> Manifest:
    """Open a folder of table files of one kind, or of images."""
    listing = _Listing(uri)
    by_kind: dict[TableKind, list[str]] = {}
    for info in files.list(uri):
        kind = _table_kind(info.uri, _TABLES)
        if info.uri.lower().endswith(IMAGE_SUFFIXES):
            listing.add(info.uri)
        elif kind is not None and not name(info.uri).startswith("_"):
            by_kind.setdefault(kind, []).append(info.uri)
    fragments = listing.close()
    if fragments and by_kind:
        example = next(iter(by_kind.values()))[0]
        raise ConfigError(
            f"{redact(uri)} contains both images and tables; name the manifest itself, such as {redact(example)}, "
            "or move the tables elsewhere"
        )
    if len(by_kind) > 1:
        raise ConfigError(f"{redact(uri)} contains {' and '.join(sorted(by_kind))} files; a manifest must be of one kind")
    if by_kind:
        ((kind, paths),) = by_kind.items()
        return _from_tables(uri, kind, uri, paths, files)
    if not fragments:
        raise ConfigError(f"{redact(uri)} contains neither images nor a manifest; give {_KINDS}")
    return Manifest(uri, "images", uri, fragments, pa.schema([]), AllowList.of(files.storage, uri))


def _from_tables(uri: str, kind: TableKind, base: str, paths: list[str], files: Files) -> Manifest:
    columns, fragments = tables.read_schema(kind, paths, files)
    return Manifest(uri, kind, base, tuple(fragments), columns, AllowList.of(files.storage, base))


def _relative(uri: str, folder: str) -> str:
    return uri.removeprefix(f"{folder.rstrip('/')}/")


def _table_kind(uri: str, suffixes: dict[str, TableKind]) -> TableKind | None:
    return next((kind for suffix, kind in suffixes.items() if uri.lower().endswith(suffix)), None)


class _Listing:
    """Image paths below a folder, compressed as they are added: about 100 MB for ten million."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._paths: list[str] = []
        self._fragments: list[Fragment] = []

    def add(self, uri: str) -> None:
        # A name that is not UTF-8 is escaped; its item fails because no such file exists.
        self._paths.append(_relative(uri, self.folder).encode("utf-8", "backslashreplace").decode())
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
