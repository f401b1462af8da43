"""Unpack the pictures of Parquet data sets to files, and build a manifest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, DecodeError, ItemRefused
from pipeline.imaging.sniff import SUFFIXES, sniff
from pipeline.log import log
from pipeline.manifest.cells import IMAGE, MASK, TRUTH
from pipeline.manifest.columns import boxes_by_other_names
from pipeline.manifest.items import has_bytes
from pipeline.manifest.partitions import add_columns, partition_of
from pipeline.manifest.table_files import translate_errors
from pipeline.storage import uris
from pipeline.storage.files import Files
from pipeline.storage.object_names import FileNames
from pipeline.storage.parquet_cells import BUFFER_BYTES, holds_pictures

ROWS, THREADS = 16, 8


class _Target(NamedTuple):
    """Destination of the pictures."""

    folder: str
    files: Files
    names: FileNames


def from_hub(source: str, target: str, files: Files) -> pa.Table:
    """Unpack the image and mask bytes of a Parquet file or folder below ``target``, as data sets on the hub have them.

    Images are in the column ``image``, or else in the first column of pictures. Columns: ``item_id`` (from the data set, or the
    file's path below the folder and the row), ``image_uri``, ``truth_uri`` if there is a column ``mask``, and all others but
    bytes. A picture that is a path without bytes is named by it. Warnings tell of columns and pictures that are left out.

    Raises:
        ConfigError: The file is not Parquet, has no column of pictures, has two rows of one id, or other columns than the
            others.
        StorageError: The source can't be read or listed.
        WriteError: A file can't be written.
    """
    sources = [source] if files.exists(source) else [info.uri for info in files.list(source, suffixes=(".parquet", ".pq"))]
    if not sources:
        raise ConfigError(f"no Parquet file at or below {source}; give a .parquet file, or a folder that contains some")
    place = _Target(target, files, FileNames())
    tables = [part for uri in sources for part in _unpack(uri, source, place)]
    if not tables:
        raise ConfigError(f"{source} has no rows")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigError(f"the files below {source} have incompatible columns: {str(error).splitlines()[0]}") from error
    if empty := table["image_uri"].null_count:
        log.warning(f"{source}: {empty} of {table.num_rows} rows have no picture, and their items will fail")
    return table


def _unpack(source: str, folder: str, target: _Target) -> Iterator[pa.Table]:
    """Unpack a Parquet file in batches of ``ROWS``."""
    file_name = uris.name(source) if source == folder else source.removeprefix(f"{folder.rstrip('/')}/")
    stem, row, by_path = file_name.rpartition(".")[0] or file_name, 0, 0
    partition = partition_of(source, uris.parent(source) if source == folder else folder)
    with (
        translate_errors(source, "Parquet file"),
        target.files.open_input(source) as stream,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        # With a buffer, or all pictures of a row group would be in memory.
        file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
        pictures = _picture_columns(file.schema_arrow, source)
        carried = [field.name for field in file.schema_arrow if _is_carried(field) and field.name not in pictures.values()]
        _tell_left_out(file.schema_arrow, [*carried, "item_id", *pictures.values()], source)
        for batch in file.iter_batches(ROWS):
            rows = pa.Table.from_batches([batch])
            given = rows["item_id"].to_pylist() if "item_id" in rows.column_names else [None] * rows.num_rows
            ids = [f"{stem}-{row + place:06}" if one in (None, "") else str(one) for place, one in enumerate(given)]
            stems = [target.names.name(item_id, f"row {row + place} of {file_name}") for place, item_id in enumerate(ids, 1)]
            columns = {"item_id": pa.array(ids, pa.string())}
            for column, name in pictures.items():
                values = rows[name].to_pylist()
                place_of = partial(_place, source, "images" if column == "image_uri" else "masks", target)
                found = list(pool.map(place_of, values, stems))
                by_path += sum(_bytes(value) is None and uri is not None for value, uri in zip(values, found, strict=True))
                columns[column] = pa.array(found, pa.string())
            yield add_columns(pa.table(columns | {name: rows[name] for name in carried}), partition)
            row += rows.num_rows
    if by_path:
        log.warning(f"{source}: {by_path} of its pictures are named by a path, and are not in the file")


def _picture_columns(schema: pa.Schema, source: str) -> dict[str, str]:
    """Return the columns of pictures by those of the manifest that they become.

    Raises:
        ConfigError: There is none with images.
    """
    found = [field.name for field in schema if holds_pictures(field.type)]
    images = [name for name in found if name != MASK]
    if not images:
        lists = [field.name for field in schema if has_bytes(field.type) and field.name != MASK]
        hint = f"; {lists[0]!r} has several pictures per row: write one row per picture" if lists else ""
        raise ConfigError(
            f"{source} has no column with the bytes of images; its columns are {', '.join(schema.names[:12])}{hint}"
        )
    image = IMAGE if IMAGE in images else images[0]
    return {"image_uri": image} | ({TRUTH: MASK} if MASK in found else {})


def _tell_left_out(schema: pa.Schema, used: Sequence[str], source: str) -> None:
    left_out = [name for name in schema.names if name not in used]
    if left_out:
        log.warning(
            f"{source}: columns are left out, since they hold files or have names of the manifest: {', '.join(left_out)}"
        )
    boxes = "" if {"box", "boxes", "x0"} & set(schema.names) else boxes_by_other_names(schema)
    if boxes:
        log.warning(f"{source}: no boxes are used. {boxes}")


def _place(source: str, folder: str, target: _Target, value: Any, stem: str) -> str | None:
    """Write a picture and return its URI; of one that has a path only, the URI of that path; None for neither."""
    data = _bytes(value)
    if data is not None:
        uri = uris.join(target.folder, folder, stem + _suffix(data))
        target.files.write(uri, data)
        return uri
    path = value.get("path") if isinstance(value, dict) else None
    try:
        return uris.resolve(path, uris.parent(source)) if isinstance(path, str) and path else None
    except ItemRefused:
        return path


def _suffix(data: bytes) -> str:
    """Return the suffix of an image's format."""
    try:
        return f".{SUFFIXES[sniff(data)]}"
    except DecodeError:
        return ".bin"  # decoding reports the error for this item


def _bytes(value: Any) -> bytes | None:
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) else None


def _is_carried(field: pa.Field) -> bool:
    return not has_bytes(field.type) and field.name not in ("item_id", "image_uri", TRUTH)
