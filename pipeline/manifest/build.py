"""Build manifests from folders or prefixes of images, with or without ground truth, and write them."""

from __future__ import annotations

import io
import json
import os
import re
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.manifest.items import CORNERS
from pipeline.manifest.listing import IMAGE_SUFFIXES, list_folder
from pipeline.manifest.table_files import TABLES, table_kind
from pipeline.manifest.tables import column_names
from pipeline.storage import uris
from pipeline.storage.files import Files

_BUILT = ("item_id", "image_uri", *CORNERS, "box", "category", "coco_file", "coco_id", "truth_uri", "tags", "group")
_SUFFIXES = (".csv", ".parquet", ".jsonl", ".ndjson")
_URI_COLUMNS = ("image_uri", "truth_uri", "coco_file")

_DIS5K_NAME = re.compile(r"\d+#([^#]+)#\d+#")


def from_folder(folder: str, files: Files, without: str | None = None) -> pa.Table:
    """List the images below a folder or prefix: columns ``item_id`` (path below the folder) and ``image_uri``.

    Those below a folder ``without`` in it are left out.

    Raises:
        ConfigError: There are no images.
        StorageError: The folder can't be listed.
    """
    inside = f"{without.rstrip('/')}/" if without is not None and without != folder else None
    listed = list_folder(folder, files, IMAGE_SUFFIXES)
    images = [uris.printable(uri) for uri in listed if inside is None or not uri.startswith(inside)]
    if not images:
        raise ConfigError(f"no images below {folder}; names must end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return pa.table({"item_id": [uri.removeprefix(folder).lstrip("/") for uri in images], "image_uri": images})


def from_masks(folder: str, masks: str, files: Files) -> pa.Table:
    """Add a column ``truth_uri`` to ``from_folder``: the mask of the same path below ``masks`` with any suffix, or null.

    A folder of masks among the images holds no items.

    Raises:
        ConfigError: There are no images, an image has two masks, or no image has a mask.
        StorageError: A folder can't be listed.
    """
    table = from_folder(folder, files, without=None if folder.startswith(f"{masks.rstrip('/')}/") else masks)
    by_stem: dict[str, str] = {}
    for mask in list_folder(masks, files, IMAGE_SUFFIXES):
        stem = _stem(uris.printable(mask.removeprefix(masks)).lstrip("/"))
        if stem in by_stem:
            raise ConfigError(f"{by_stem[stem]} and {mask} are both masks of {stem!r}; keep one")
        by_stem[stem] = uris.printable(mask)
    truths = [by_stem.get(_stem(item_id)) for item_id in table["item_id"].to_pylist()]
    if not any(truths):
        raise ConfigError(
            f"no mask below {masks} has the name of an image below {folder}; names must be equal except for the suffix"
        )
    return table.append_column("truth_uri", pa.array(truths, pa.string()))


def from_dis5k(folder: str, files: Files) -> pa.Table:
    """Build a manifest of DIS5K or one of its parts: ``im/`` and ``gt/`` in the folder, or in its subfolders (DIS-VD, …).

    Columns: ``item_id`` (``<part>/<file name>``), ``image_uri``, ``truth_uri`` and ``tags``, the part and the category of
    objects in DIS5K's file names (``1#Accessories#1#Bag#….jpg``), separated by ``;``.

    Raises:
        ConfigError: No such folders exist, or as for ``from_masks``.
        StorageError: A folder can't be listed.
    """
    parts = [part for part in (folder, *files.folders(folder)) if files.is_folder(uris.join(part, "gt"))]
    if not parts:
        raise ConfigError(f"{folder} does not have the layout of DIS5K: neither it nor a subfolder has im/ and gt/")
    return pa.concat_tables(_dis5k_part(part, files) for part in parts)


def _dis5k_part(folder: str, files: Files) -> pa.Table:
    table, part = from_masks(uris.join(folder, "im"), uris.join(folder, "gt"), files), uris.name(folder)
    names = table["item_id"].to_pylist()
    categories = [_DIS5K_NAME.match(uris.name(name)) for name in names]
    tags = [part if category is None else f"{part};{category[1]}" for category in categories]
    table = table.set_column(0, "item_id", pa.array([f"{part}/{name}" for name in names], pa.string()))
    return table.append_column("tags", pa.array(tags, pa.string()))


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122  a URI is no Path


def check_suffix(target: str) -> str:
    """Return the suffix of a manifest to write, in lower case.

    Raises:
        ConfigError: There is no such format.
    """
    suffix = os.path.splitext(target)[1].lower()  # noqa: PTH122  a URI is no Path
    if suffix not in _SUFFIXES:
        raise ConfigError(f"a manifest's name must end in .csv, .parquet or .jsonl, not {suffix or 'nothing'!r}")
    return suffix


def refuse_other_columns(table: pa.Table, target: str, files: Files) -> None:
    """Refuse to replace a table of the user's own: one with columns that neither the new one nor any built manifest has.

    Raises:
        ConfigError: It names the columns.
    """
    kind = table_kind(target, TABLES)
    if kind is None or not files.exists(target) or not files.stat(target).size:
        return
    try:
        names = column_names(kind, target, files)
    except ConfigError as error:
        raise ConfigError(f"{target} exists and is not a manifest; choose another name, or delete it") from error
    if lost := [name for name in names if name not in {*table.column_names, *_BUILT}]:
        listed = ", ".join(repr(name) for name in lost[:5])
        raise ConfigError(f"{target} exists and has columns that would be lost ({listed}); choose another name, or delete it")


def write_manifest(table: pa.Table, target: str, files: Files) -> None:
    """Write a manifest as CSV (lists and structs as JSON text), Parquet or JSON Lines, depending on its name.

    URIs of images, masks and annotations below the manifest's folder become relative.

    Raises:
        ConfigError: The name has another suffix.
        WriteError: The file can't be written.
    """
    suffix, base = check_suffix(target), uris.parent(target).rstrip("/") + "/"
    for column in set(_URI_COLUMNS) & set(table.column_names):
        relative = [uri and uri.removeprefix(base) for uri in table[column].to_pylist()]
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(relative, pa.string()))
    sink = io.BytesIO()
    match suffix:
        case ".csv":
            pyarrow.csv.write_csv(_with_json_text(table), sink)
        case ".parquet":
            pq.write_table(table, sink)
        case _:
            sink.writelines(_to_json(row).encode() + b"\n" for row in table.to_pylist())
    files.write(target, sink.getvalue())


def _with_json_text(table: pa.Table) -> pa.Table:
    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = table[field.name].to_pylist()
            texts = [None if value is None else _to_json(value) for value in values]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)  # dates and decimals as text
