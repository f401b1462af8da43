"""Decide what a folder is: a folder of images, or one with a table whose rows are the items."""

from __future__ import annotations

import json
import shlex
import zlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow as pa

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.manifest.hub_columns import FolderColumns
from pipeline.manifest.layouts import is_img2dataset, is_metadata
from pipeline.manifest.listing import IMAGE_SUFFIXES, list_folder
from pipeline.manifest.snapshot import Snapshot
from pipeline.manifest.table_files import ROWS, TABLES, TableKind, table_kind
from pipeline.manifest.tables import Fragment, column_names
from pipeline.manifest.videos import VIDEO_COLUMN, folder_suffixes
from pipeline.storage.files import Files
from pipeline.storage.uris import name, printable, redact

MAX_COMPARED = 20
"""Tables beside images whose columns are read, at most."""


class Content(NamedTuple):
    """Tables and images of a folder."""

    images: tuple[Fragment, ...]
    """And videos."""
    tables: dict[TableKind, list[str]]
    columns: pa.Schema
    """Columns in the folders of the images, as text."""


class Tables(NamedTuple):
    """Table files of one kind, which are one manifest."""

    kind: TableKind
    uris: Sequence[str]
    named: str | None = None
    """The table that a user could have named instead of the folder."""


def list_content(uri: str, files: Files, ready: Snapshot | None = None) -> Content:
    """List the images, videos and tables below a folder. Tables whose name begins with ``_`` are left out.

    With ``ready``, only the files in that snapshot.

    Raises:
        StorageError: The folder can't be listed.
    """
    listing, tables = _Listing(uri), dict[TableKind, list[str]]()
    for found in list_folder(uri, files, (*IMAGE_SUFFIXES, *folder_suffixes(), *TABLES), ready):
        kind = table_kind(found, TABLES)
        if kind is None:
            listing.add(found)
        elif not name(found).startswith("_"):
            tables.setdefault(kind, []).append(found)
    return Content(listing.close(), tables, listing.columns.schema)


def choose_tables(uri: str, content: Content, files: Files, chosen: Columns) -> Tables | None:
    """Return the tables whose rows are the items of a folder; None if its images are.

    Beside images, these are ``metadata`` tables of Hugging Face, those of img2dataset, or the only one with a column of images.

    Raises:
        ConfigError: Several tables could be meant, or they are of several kinds.
    """
    tables = _without_tables_of_shards(content.tables)
    if not content.images:
        return _of_one_kind(uri, tables)
    shards = tables.pop("tar", [])
    if shards:
        count = "1 archive" if len(shards) == 1 else f"{len(shards)} archives"
        log.warning(
            f"{redact(uri)}: its images are the items; left out: {count}, such as --manifest {shlex.quote(redact(shards[0]))}"
        )
    by_kind = {kind: [one for one in uris if is_metadata(one)] for kind, uris in tables.items()}
    by_kind = {kind: uris for kind, uris in by_kind.items() if uris}
    if by_kind:
        found = _of_one_kind(uri, by_kind)
        if found is not None and "file_name" in column_names(found.kind, found.uris[0], files):
            return found
    parquet = tables.get("parquet", [])
    if len(tables) == 1 and parquet and is_img2dataset(column_names("parquet", parquet[0], files)):
        return Tables("parquet", parquet)
    return _only_table(uri, tables, files, chosen)


def _without_tables_of_shards(tables: Mapping[TableKind, list[str]]) -> dict[TableKind, list[str]]:
    """Drop the tables that img2dataset writes beside its shards: the shards have all of their content."""
    shards = {uri.rpartition(".")[0] for uri in tables.get("tar", [])}
    kept = {
        kind: [uri for uri in uris if kind == "tar" or uri.rpartition(".")[0] not in shards] for kind, uris in tables.items()
    }
    return {kind: uris for kind, uris in kept.items() if uris}


def _of_one_kind(uri: str, tables: Mapping[TableKind, list[str]]) -> Tables | None:
    if len(tables) > 1:
        raise ConfigError(f"{redact(uri)} contains {' and '.join(sorted(tables))} files; a manifest must be of one kind")
    return next((Tables(kind, uris) for kind, uris in tables.items()), None)


def _only_table(uri: str, tables: Mapping[TableKind, list[str]], files: Files, chosen: Columns) -> Tables | None:
    """Return the only table with a column of images. Without one, say that the tables are left out.

    Raises:
        ConfigError: There are several.
    """
    beside = [(kind, one) for kind, uris in tables.items() for one in uris]
    compared = list(islice(beside, MAX_COMPARED))
    usable = [Tables(kind, [one], one) for kind, one in compared if _names_images(kind, one, files, chosen)]
    if len(usable) > 1 or (usable and len(beside) > MAX_COMPARED):
        listed = ", ".join(redact(found.uris[0]) for found in usable[:3]) + (", …" if len(usable) > 3 else "")
        raise ConfigError(
            f"{redact(uri)} contains images and {len(usable)} tables that name images ({listed}); give the one that is meant, "
            f"such as --manifest {shlex.quote(redact(usable[0].uris[0]))}. For all images, list them with: matteline manifest "
            f"{shlex.quote(redact(uri))} -o images.csv"
        )
    if usable:
        log.info(f"{redact(uri)}: the rows of {name(usable[0].uris[0])} are the items")
        return usable[0]
    if chosen.image is not None:
        raise ConfigError(f"{redact(uri)}: no table in it has a column {chosen.image!r} (--image-column); name a table")
    if beside:
        first = redact(beside[0][1])
        left_out = "1 table in it is" if len(beside) == 1 else f"{len(beside)} tables in it are"
        log.warning(
            f"{redact(uri)}: its images are the items; {left_out} left out, for lack of a column image_uri. For the "
            f"rows of one: --manifest {shlex.quote(first)} --image-column NAME"
        )
    return None


def _names_images(kind: TableKind, uri: str, files: Files, chosen: Columns) -> bool:
    try:
        return not {"image_uri", VIDEO_COLUMN}.isdisjoint(map(chosen.rename, column_names(kind, uri, files)))
    except ConfigError:  # it is empty or damaged
        return False


class _Listing:
    """Image paths below a folder, compressed as they are added: about 100 MB for ten million."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.columns = FolderColumns()
        self._paths: list[str] = []
        self._fragments: list[Fragment] = []

    def add(self, uri: str) -> None:
        self._paths.append(printable(uri.removeprefix(f"{self.folder.rstrip('/')}/")))
        self.columns.add(self._paths[-1])
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
