"""Open, read and scan manifests: Parquet, CSV or JSON Lines files, or a folder of images.

``open_manifest`` finds the files and divides them into fragments, ``read`` converts a fragment to items, and ``scan`` reads
all fragments once and refuses what can't be run. The driver's scan and the workers use the same ``read``.
"""

from __future__ import annotations

import json
import re
import shlex
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.log import Waiting
from pipeline.manifest import boxes, tables
from pipeline.manifest.folder import choose_tables, list_content
from pipeline.manifest.hub_columns import with_folder_columns
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.manifest.items import OWN_COLUMNS, USUAL, items
from pipeline.manifest.layouts import find_layout
from pipeline.manifest.listing import IMAGE_SUFFIXES, is_pattern, split_pattern
from pipeline.manifest.names import NameTemplate, name_keys
from pipeline.manifest.sample import Request, Sample
from pipeline.manifest.snapshot import Snapshot, only_ready
from pipeline.manifest.table_files import NAMED_TABLES, TABLES, TableKind, table_kind
from pipeline.manifest.tables import Fragment
from pipeline.manifest.videos import VIDEO_SUFFIXES, are_videos
from pipeline.schema import carried_name
from pipeline.storage.allowlist import AllowList, OutsideRoots
from pipeline.storage.files import Files
from pipeline.storage.object_names import collision_key
from pipeline.storage.uris import HTTP_SCHEMES, check_utf8, parent, redact, scheme

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

MAX_REASONS = 100
"""Kinds of reasons for refused rows that are counted."""

_KINDS = (
    "a .parquet, .csv, .jsonl, .ndjson (.gz too for text) or .tar file, a folder or pattern of those, or a folder of images"
)


@dataclass(frozen=True)
class Manifest:
    """The location and the columns of a manifest. Its items are not read yet."""

    uri: str
    kind: Literal["parquet", "csv", "jsonl", "tar", "images"]
    base: str
    """Folder or prefix of relative URIs."""
    fragments: tuple[Fragment, ...]
    columns: pa.Schema
    """Carried columns of all files together (JSON Lines and shards: all columns)."""
    allowlist: AllowList
    """Allowed locations of its images."""
    names: NameTemplate = NameTemplate()  # noqa: RUF009  (immutable)
    """Template of the names of its items' files."""
    chosen: Columns = USUAL
    """Columns with other names than the usual ones. In ``columns``, they have the usual ones."""
    is_watched: bool = False
    """True if its files are still coming (``--watch``), so that it may have no items yet."""

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
    videos: IdSet
    """Those of ``ids`` that are videos, sorted."""
    names: npt.NDArray[np.uint64]
    """Sorted ``name_keys`` of the items' files."""
    outside_roots: OutsideRoots
    """Those of the refused rows whose image is outside the allowed roots."""
    reasons: Mapping[str, tuple[int, str]]
    """Number of refused rows by the kind of their reason, and the first reason of this kind."""
    sample: Mapping[str, Request]
    """Some items by id."""


def open_manifest(
    uri: str, files: Files, names: NameTemplate | None = None, chosen: Columns = USUAL, *, ready: Snapshot | None = None
) -> Manifest:
    """Find a manifest's files, columns and fragments.

    Args:
        uri: Path or URI.
        files: Access to storage.
        names: Template of the names of its items' files.
        chosen: Columns with other names than the usual ones.
        ready: Leave out files that are not in this snapshot; there may be none. None: use all files.

    Raises:
        ConfigError: It is of an unknown kind, empty, damaged, mixed, or without ``image_uri``, a ``chosen`` column, or
            a column of the template ``names``; its path is not UTF-8; or an allowed root is invalid.
        StorageError: It is missing or can't be read.
    """
    manifest = replace(_open(check_utf8(files.absolute(uri)), files, chosen, ready), is_watched=ready is not None)
    if names is None or not manifest.fragments:
        return manifest
    names.check([field.name for field in manifest.columns], redact(manifest.uri))
    return replace(manifest, names=names)


def refuse_single(uri: str) -> None:
    """Refuse an image or a video instead of a manifest, by its suffix. A folder may have such a name.

    Raises:
        ConfigError: It names the command for it.
    """
    plain = redact(uri).lower()
    single = "image" if plain.endswith(IMAGE_SUFFIXES) else "video" if plain.endswith(VIDEO_SUFFIXES) else ""
    if single and not (not scheme(uri) and Path(uri).is_dir()):
        shown = shlex.quote(redact(uri))
        raise ConfigError(f"{redact(uri)} is one {single}: matteline cut {shown}; a manifest is {_KINDS}")


def _open(uri: str, files: Files, chosen: Columns, ready: Snapshot | None) -> Manifest:
    if scheme(uri) in HTTP_SCHEMES:
        refuse_single(uri)  # a web server has no folders
    if is_pattern(uri, files):
        return _from_pattern(uri, files, chosen, ready)
    if ready is None or not scheme(uri):  # a prefix may still be empty, and then does not exist
        files.check_readable(uri)
    return _from_file(uri, files, chosen, ready) if files.exists(uri) else _from_folder(uri, files, chosen, ready)


def read(manifest: Manifest, fragment: Fragment, files: Files, outside_roots: OutsideRoots | None = None) -> Iterator[pa.Table]:
    """Read a fragment's items in tables of about 8192 (with ``boxes``: 30,000): schema ITEM, then the carried columns.

    ``outside_roots`` counts the rows whose image is outside the allowed roots.

    Raises:
        ConfigError: The file was changed or damaged after the manifest was opened.
    """
    carried, allowlist = manifest.carried, manifest.allowlist
    if manifest.kind == "images":
        paths = json.loads(zlib.decompress(fragment.names))
        table = pa.table({"image_uri": [f"{fragment.uri.rstrip('/')}/{path}" for path in paths], "item_id": paths})
        table = with_folder_columns(table, paths, manifest.columns)
        names = manifest.names if manifest.names.text else NameTemplate("{image}")  # paths are ids here only to be short
        yield items(table, manifest.base, carried, "", 1, allowlist, outside_roots, names)
        return
    row = fragment.first_row
    file = _relative(fragment.uri, manifest.base)
    for table in tables.read_rows(manifest.kind, fragment, manifest.columns, files, manifest.chosen):
        for rows in boxes.cut(table):
            yield items(rows, manifest.base, carried, file, row, allowlist, outside_roots, manifest.names)
            row += rows.num_rows


def scan(manifest: Manifest, files: Files, waiting: Waiting | None = None) -> Scan:
    """Read the complete manifest and keep 24 bytes per item. Rows are counted in ``waiting``.

    Raises:
        ConfigError: It has no rows, duplicate ids, two items whose files would share a name, or a damaged file.
    """
    rows = with_box = refused = 0
    pieces: list[IdSet] = []
    videos: list[IdSet] = []
    keys: list[npt.NDArray[np.uint64]] = []
    outside_roots, sample = OutsideRoots(), Sample()
    reasons: dict[str, tuple[int, str]] = {}
    for table in _read_all(manifest, files, outside_roots):
        pieces.append(hash_ids(table["item_id"]))
        sample.add(table, pieces[-1])
        videos.append(pieces[-1][are_videos(table)])
        _count_reasons(table, reasons)
        keys.append(name_keys(_usable(table)["output_name"]))
        with_box += table.num_rows - table["box"].null_count
        refused += table.num_rows - table["error_code"].null_count
        rows += table.num_rows
        if waiting is not None:
            waiting.count(rows, "rows")
    ids = merge_ids(pieces)
    if not len(ids) and not manifest.is_watched:
        raise ConfigError(f"the manifest {redact(manifest.uri)} is empty; it needs at least one row with an image_uri")
    duplicates = duplicate_ids(ids)
    if len(duplicates):
        raise ConfigError(_describe_duplicates(manifest, duplicates, files))
    names = np.sort(np.concatenate([np.zeros(0, np.uint64), *keys]))
    _check_names(manifest, np.unique(names[1:][names[1:] == names[:-1]]), files)
    return Scan(len(ids), with_box, refused, ids, merge_ids(videos), names, outside_roots, reasons, sample.by_id())


def _count_reasons(items: pa.Table, reasons: dict[str, tuple[int, str]]) -> None:
    """Count refused rows by their reason without its numbers and quoted texts. There are at most ``MAX_REASONS`` kinds."""
    for detail in items["error_detail"].drop_null().to_pylist():
        kind = re.sub(r"'[^']*'|[0-9.]+", "", detail)[:80]
        if kind in reasons or len(reasons) < MAX_REASONS:
            count, first = reasons.get(kind, (0, detail))
            reasons[kind] = count + 1, first


def _usable(items: pa.Table) -> pa.Table:
    """Return the items that will have files, unless they fail."""
    return items.filter(pc.is_null(items["error_code"]))


def _check_names(manifest: Manifest, shared: npt.NDArray[np.uint64], files: Files) -> None:
    """Read the items whose names have the same hash, and refuse two of the same name.

    Raises:
        ConfigError: It names both items.
    """
    if not len(shared):
        return
    seen: dict[str, tuple[str, str]] = {}
    for table in map(_usable, _read_all(manifest, files)):
        rows = table.select(["item_id", "output_name"]).filter(pa.array(np.isin(name_keys(table["output_name"]), shared)))
        for item_id, name_ in zip(rows["item_id"].to_pylist(), rows["output_name"].to_pylist(), strict=True):
            other = seen.setdefault(collision_key(name_), (item_id, name_))
            if other[0] != item_id:
                raise ConfigError(shared_name(other, (item_id, name_)))


def item_named(manifest: Manifest, name_: str, files: Files) -> tuple[str, str] | None:
    """Return id and name of the item whose files a file system may not tell apart from those of ``name_``; None if none."""
    key = collision_key(name_)
    for table in map(_usable, _read_all(manifest, files)):
        for item_id, other in zip(table["item_id"].to_pylist(), table["output_name"].to_pylist(), strict=True):
            if collision_key(other) == key:
                return item_id, other
    return None


def shared_name(one: tuple[str, str], other: tuple[str, str]) -> str:
    """Return the message about two items, each an id and a name, whose files would have the same name."""
    why = "" if one[1] == other[1] else f" and {other[1]!r}, which some file systems do not tell apart"
    return (
        f"the items {one[0]!r} and {other[0]!r} would share the file name {one[1]!r}{why}; give them different ids, or set "
        'output.name, for instance --set output.name="{image}-{suffix}"'
    )


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
        "(without that column, a unique combination of image_uri and box or point)"
    )


def _from_file(uri: str, files: Files, chosen: Columns, ready: Snapshot | None) -> Manifest:
    kind = table_kind(uri, TABLES | NAMED_TABLES)
    if kind is None:
        refuse_single(uri)
        hint = ""
        if uri.lower().endswith(COMPRESSED_TARS):
            hint = "; pictures in a compressed archive cannot be read by their place, so decompress it to .tar"
        raise ConfigError(f"{redact(uri)} is not a manifest: give {_KINDS}{hint}")
    if ready is not None and not list(only_ready([files.stat(uri)], ready)):
        return _without_files(uri, parent(uri), files)
    return _from_tables(uri, kind, parent(uri), [uri], files, chosen)


def _from_pattern(uri: str, files: Files, chosen: Columns, ready: Snapshot | None) -> Manifest:
    base, pattern = split_pattern(uri, files)
    paths = files.glob(pattern)
    if ready is not None:
        paths = tuple(info.uri for info in only_ready(map(files.stat, paths), ready))
        if not paths:
            return _without_files(uri, base, files)
    if not paths:
        raise ConfigError(f"no file matches {redact(uri)}; correct the pattern")
    kinds = {table_kind(path, TABLES | NAMED_TABLES) for path in paths}
    if kinds == {None} and all(path.lower().endswith(IMAGE_SUFFIXES) for path in paths):
        raise ConfigError(f"{redact(uri)} matches images; give their folder instead of a pattern")
    kind = kinds.pop()
    if kind is None or kinds:
        raise ConfigError(f"{redact(uri)} matches files that are not all of one supported kind; a manifest is {_KINDS}")
    return _from_tables(uri, kind, base, list(paths), files, chosen)


def _from_folder(uri: str, files: Files, chosen: Columns, ready: Snapshot | None) -> Manifest:
    """Open a folder of images, or of tables, or of both."""
    content = list_content(uri, files, ready)
    found = choose_tables(uri, content, files, chosen)
    if found is not None and found.named is not None:
        return _from_tables(found.named, found.kind, parent(found.named), [found.named], files, chosen)
    if found is not None:
        return _from_tables(uri, found.kind, uri, list(found.uris), files, chosen)
    if not content.images and ready is not None:
        return _without_files(uri, uri, files)
    if not content.images:
        raise ConfigError(f"{redact(uri)} contains neither images nor a manifest; give {_KINDS}")
    return Manifest(uri, "images", uri, content.images, content.columns, AllowList.of(files.storage, uri))


def _without_files(uri: str, base: str, files: Files) -> Manifest:
    return Manifest(uri, "images", base, (), pa.schema([]), AllowList.of(files.storage, base))


def _from_tables(uri: str, kind: TableKind, base: str, paths: list[str], files: Files, chosen: Columns) -> Manifest:
    chosen, layout = find_layout(paths[0], tables.column_names(kind, paths[0], files), chosen, files)
    columns, fragments = tables.read_schema(kind, paths, base, files, chosen, layout)
    return Manifest(uri, kind, base, tuple(fragments), columns, AllowList.of(files.storage, base), chosen=chosen)


def _relative(uri: str, folder: str) -> str:
    return uri.removeprefix(f"{folder.rstrip('/')}/")
