"""Read Parquet, CSV and JSON Lines files, and WebDataset shards, as tables, in fragments that can be read independently.

Column names are stripped of surrounding spaces. Columns keep the type of the file; CSV columns are text, and for JSON Lines
see ``json_lines``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.manifest.cells import Cells, Column, find_cells
from pipeline.manifest.columns import check_columns
from pipeline.manifest.csv_tables import csv_rows, csv_schema
from pipeline.manifest.hub_columns import SPLIT, splits_of
from pipeline.manifest.items import OWN_COLUMNS, UNNAMED, USUAL, check_count, clean_names, has_bytes, is_name, roles
from pipeline.manifest.json_lines import json_lines, json_rows, json_schema
from pipeline.manifest.layouts import Layout, Placement
from pipeline.manifest.partitions import Partition, add_columns, add_fields, partition_of
from pipeline.manifest.pieces import pieces
from pipeline.manifest.shards import shard_rows, shard_schema, without_image
from pipeline.manifest.table_files import ROWS, TABLE_BYTES, TableKind, translate_errors
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

NESTED_ROWS = 1024
"""Maximum rows per table of a Parquet file with lists, whose repetitions its metadata does not count."""

MAX_LARGE_CELLS_BYTES, LARGE_CELL_BYTES = 64 * 2**20, 16 * 2**10
"""Uncompressed bytes of a column in one Parquet row group, at most, if its values are larger than the second number."""

FRAGMENT_ROWS = 65_536
"""Smaller Parquet row groups are combined up to this size."""

FIRST_ROWS = 100
"""Rows of JSON Lines whose keys are taken for the file's columns."""

PEEK_BYTES = 2**20
"""Bytes per request while the first value of a Parquet column is looked for."""

SCHEMA_THREADS = 16
"""Files whose schemas are read concurrently."""


@dataclass(frozen=True)
class Fragment:
    """A part of a manifest that can be read independently."""

    uri: str
    """A table file, or the folder of a listing."""
    first_row: int = 1
    """Number of its first row in the file."""
    row_groups: tuple[int, ...] = ()
    """Parquet only."""
    names: bytes = b""
    """Folders of images only: the paths below ``uri``, as compressed JSON."""
    partition: Partition = ()
    """Tables only: columns in the names of its folders."""
    placement: Placement | None = None
    """Tables only: how its rows name images, if not by a column of URIs."""
    cells: Cells | None = None
    """Parquet only: its columns of pictures, if it has some."""

    def complete(self, table: pa.Table, chosen: Columns) -> pa.Table:
        """Add the columns that are not in the file: those of its folders, the URIs of its images, the column of ids."""
        table = add_columns(table, self.partition)
        if self.placement is not None:
            table = self.placement.add_column(table)
        if chosen.id is None or chosen.id in table.column_names or "item_id" not in table.column_names:
            return table
        return table.append_column(chosen.id, table["item_id"])


def column_names(kind: TableKind, uri: str, files: Files) -> list[str]:
    """Return the names of a file's columns, of JSON Lines those in its first rows.

    Raises:
        ConfigError: The file is empty or damaged.
    """
    if kind == "tar":
        return list(shard_schema(uri, files).names)
    if kind == "jsonl":
        rows = (line.row for line in islice(json_lines(uri, files), FIRST_ROWS))
        return clean_names(list(filter(is_name, dict.fromkeys(column for row in rows for column in row))), redact(uri))
    schema = csv_schema(uri, files, USUAL) if kind == "csv" else _parquet_schema(uri, files, USUAL, tell=False)[0]
    return list(schema.names)


def read_schema(
    kind: TableKind, uris: Sequence[str], base: str, files: Files, chosen: Columns = USUAL, layout: Layout | None = None
) -> tuple[pa.Schema, list[Fragment]]:
    """Return the unified schema of the carried columns (JSON Lines: of all columns) and the fragments of some files.

    Parquet and CSV files are read at their end or beginning only; JSON Lines files are read completely to infer types.

    Raises:
        ConfigError: A file is empty, damaged, of another kind, without ``image_uri``, or incompatible with the others.
    """
    if kind == "tar":
        schema = shard_schema(uris[0], files, chosen)
        check_columns(schema, redact(uris[0]), without_image(chosen))
        return _add_id_field(schema, chosen), [Fragment(uri) for uri in uris]
    partitions = [partition_of(uri, base, chosen) for uri in uris]
    paths = [uri.removeprefix(f"{base.rstrip('/')}/") for uri in uris]
    splits: Sequence[str | None] = splits_of(paths) or [None] * len(paths)
    if layout is not None and not layout.in_folder:
        partitions = _with_splits(partitions, splits)
    added = [] if layout is None else [pa.field("image_uri", pa.string())]
    if kind == "jsonl":
        lines = chain.from_iterable(json_lines(uri, files) for uri in uris)
        schema = json_schema((line.row for line in lines), redact(uris[0]), chosen)
        for partition in partitions:
            schema = add_fields(schema, partition)
        schema = pa.schema([*schema, *added])
        check_columns(schema, redact(uris[0]), chosen)
        schema, parts = _add_id_field(schema, chosen), [[Fragment(uri)] for uri in uris]
    else:
        read_one = _parquet_schema if kind == "parquet" else _csv_schema
        with ThreadPoolExecutor(SCHEMA_THREADS) as pool:
            results = list(pool.map(lambda uri: read_one(uri, files, chosen), uris))
        parts = [fragments for _, fragments in results]
        if any(fragment.cells is not None for fragments in parts for fragment in fragments):
            partitions = _with_splits(partitions, splits)
        schemas = [
            pa.schema([*add_fields(schema, partition), *added], metadata=schema.metadata)
            for (schema, _), partition in zip(results, partitions, strict=True)
        ]
        schema = _unified(schemas, uris, chosen)
    placements = [None if layout is None else layout.placement(uri, base) for uri in uris]
    return schema, [
        replace(fragment, partition=partition, placement=placement, cells=_with_stem(fragment, base))
        for fragments, partition, placement in zip(parts, partitions, placements, strict=True)
        for fragment in fragments
    ]


def _unified(schemas: Sequence[pa.Schema], uris: Sequence[str], chosen: Columns) -> pa.Schema:
    """Check the columns of several files, and return the carried ones of all.

    Raises:
        ConfigError: A file has no ``image_uri``, or they are incompatible or have too many columns together.
    """
    check_columns(schemas[0], redact(uris[0]), chosen)
    for uri, schema in zip(uris[1:], schemas[1:], strict=True):
        roles(schema, redact(uri), chosen)
    # Dictionaries differ from file to file, so only their value types are kept.
    carried = [
        [
            (field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
            for field in _add_id_field(schema, chosen)
            if field.name not in OWN_COLUMNS and not has_bytes(field.type)
        ]
        for schema in schemas
    ]
    check_count({name: None for fields in carried for name, _ in fields}, f"{redact(uris[0])} with the manifest's other files")
    try:
        return pa.unify_schemas([pa.schema(fields) for fields in carried], promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigError(f"the manifest's files have incompatible columns: {str(error).splitlines()[0]}") from error


def _with_splits(partitions: Sequence[Partition], splits: Sequence[str | None]) -> list[Partition]:
    """Add the splits that the names of files of Hugging Face data sets have."""
    return [one if split is None else (*one, (SPLIT, split)) for one, split in zip(partitions, splits, strict=True)]


def _with_stem(fragment: Fragment, base: str) -> Cells | None:
    stem = fragment.uri.removeprefix(f"{base.rstrip('/')}/").rpartition(".")[0]
    return None if fragment.cells is None else replace(fragment.cells, stem=stem)


def read_rows(
    kind: TableKind, fragment: Fragment, schema: pa.Schema, files: Files, chosen: Columns = USUAL
) -> Iterator[pa.Table]:
    """Read a fragment in tables of at most 8192 rows. JSON Lines and shards need the ``schema`` of ``read_schema``.

    Raises:
        ConfigError: The file is damaged.
    """
    if kind == "parquet":
        tables = _parquet_rows(fragment, files, chosen)
    elif kind == "csv":
        tables = csv_rows(fragment.uri, files, chosen)
    elif kind == "tar":
        tables = shard_rows(fragment.uri, schema, files, chosen)
    else:
        tables = json_rows(json_lines(fragment.uri, files), fragment.uri, schema, chosen)
    return (fragment.complete(_without_blank(table), chosen) for table in tables)


def _add_id_field(schema: pa.Schema, chosen: Columns) -> pa.Schema:
    """Add the chosen column of ids under its own name, so that it is carried as well."""
    if chosen.id is None or chosen.id in schema.names:
        return schema
    return schema.append(schema.field("item_id").with_name(chosen.id))


def _csv_schema(uri: str, files: Files, chosen: Columns) -> tuple[pa.Schema, list[Fragment]]:
    return csv_schema(uri, files, chosen), [Fragment(uri)]


def _parquet_schema(uri: str, files: Files, chosen: Columns, *, tell: bool = True) -> tuple[pa.Schema, list[Fragment]]:
    with translate_errors(uri, "Parquet file"), files.open_input(uri) as source:
        file = pq.ParquetFile(source, buffer_size=PEEK_BYTES, pre_buffer=False)  # a first value costs no row group
        raw = file.schema_arrow
        schema = pa.schema([field for field in raw if is_name(field.name)], metadata=raw.metadata)
        if tell and len(schema) < len(raw):
            log.warning(UNNAMED.format(redact(uri)))
        names = clean_names(schema.names, redact(uri), chosen)
        cells = find_cells(file, list(map(Column, schema.names, names, schema.types)), chosen.image)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    fragments: list[Fragment] = []
    groups: list[int] = []
    first_row = next_row = 1
    for group, count in enumerate(counts):
        groups.append(group)
        next_row += count
        if next_row - first_row >= FRAGMENT_ROWS or group == len(counts) - 1:
            fragments.append(Fragment(uri, first_row, tuple(groups), cells=cells))
            groups, first_row = [], next_row
    schema = pa.schema(list(zip(names, schema.types, strict=True)), metadata=schema.metadata)
    return schema if cells is None else cells.fields(schema), fragments


def _check_cells(row_group: Any, names: Sequence[str], uri: str) -> None:
    """Refuse cells of these columns whose pages could be too large for memory: a reader decompresses complete pages.

    A name may have dots: ``a.b`` is the field ``b`` of the column ``a``, or the column ``a.b``. Both are read.

    Raises:
        ConfigError: It names the column.
    """
    # Arrow ends the process when it is asked for a column of damaged metadata; reading that column raises. So ask seldom.
    if row_group.total_byte_size <= MAX_LARGE_CELLS_BYTES:
        return
    prefixes = tuple(f"{name}." for name in names)
    for column in map(row_group.column, range(row_group.num_columns)):
        size, rows = column.total_uncompressed_size, column.num_values
        if not f"{column.path_in_schema}.".startswith(prefixes):
            continue
        if size > MAX_LARGE_CELLS_BYTES and size / max(1, rows) > LARGE_CELL_BYTES:
            raise ConfigError(
                f"{redact(uri)}: the column {column.path_in_schema!r} has {size // 2**20} MiB in {rows} rows of one row group; "
                "drop it, or write row groups of fewer rows"
            )


def _parquet_rows(fragment: Fragment, files: Files, chosen: Columns) -> Iterator[pa.Table]:
    with translate_errors(fragment.uri, "Parquet file"), files.open_input(fragment.uri) as source:
        file = pq.ParquetFile(source)
        columns = [field.name for field in file.schema_arrow if is_name(field.name) and not has_bytes(field.type)]
        names = clean_names(columns, redact(fragment.uri), chosen)
        # As dictionaries, repeated texts are in memory once.
        texts = [
            field.name for field in file.schema_arrow if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        file = pq.ParquetFile(source, pre_buffer=True, read_dictionary=texts)
        is_nested = any(pa.types.is_nested(field.type) for field in file.schema_arrow)
        cells, row = fragment.cells, fragment.first_row - 1
        read = columns if cells is None else [*columns, *cells.read]
        for group in fragment.row_groups:
            facts = file.metadata.row_group(group)
            _check_cells(facts, read, fragment.uri)
            row_bytes = facts.total_byte_size / max(1, facts.num_rows) if cells is None else 0.0  # pictures are not read
            rows = max(1, min(NESTED_ROWS if is_nested or cells is not None else ROWS, int(TABLE_BYTES / max(1.0, row_bytes))))
            for batch in _batches(file, rows, group, read):
                batch.validate(full=True)  # Parquet files may hold texts that are not UTF-8, which is found nowhere else
                table = pa.Table.from_batches([batch])
                found = table.select(columns).rename_columns(names)
                if cells is not None:
                    found = cells.add_columns(found, table[cells.image] if cells.has_paths else None, fragment.uri, row)
                    row += table.num_rows
                yield from _small_tables(found)


def _batches(file: Any, rows: int, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read columns of a row group. Without any, the batches have only a number of rows."""
    if columns:
        yield from file.iter_batches(rows, row_groups=[group], columns=columns)
        return
    count = file.metadata.row_group(group).num_rows
    for start in range(0, count, rows):
        nothing = pa.array([{}] * min(rows, count - start), pa.struct([]))
        yield pa.RecordBatch.from_struct_array(nothing)


def _small_tables(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table so that its texts have at most ``TABLE_BYTES`` when they are no dictionaries, unless a row has more."""
    sizes = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            texts = column.combine_chunks()
            lengths = pc.fill_null(pc.binary_length(pc.cast(texts.dictionary, pa.large_binary())), 0)
            places = pc.fill_null(texts.indices, 0)
            sizes += lengths.to_numpy()[places.to_numpy()] if len(lengths) else 0
    return pieces(table, sizes, TABLE_BYTES)


def _without_blank(table: pa.Table) -> pa.Table:
    """Drop rows of empty cells, which spreadsheets write below their last row."""
    filled = np.zeros(table.num_rows, np.bool_)
    for column in table.columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            filled |= pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column.cast(kind)), ""), False).to_numpy()
        else:
            filled |= column.is_valid().to_numpy()
        if filled.all():
            return table
    return table.filter(pa.array(filled))
