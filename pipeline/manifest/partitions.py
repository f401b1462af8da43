"""Columns in the names of folders, as Hive, Spark and DuckDB write them: ``year=2026/colour=red/part-0.parquet``."""

from __future__ import annotations

from urllib.parse import unquote

import pyarrow as pa

from pipeline.config.columns import Columns
from pipeline.manifest.items import USUAL
from pipeline.storage.uris import name, parent

Partition = tuple[tuple[str, str | None], ...]
"""Names of columns, and their values in one file."""

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def partition_of(uri: str, base: str, chosen: Columns = USUAL) -> Partition:
    """Return the columns in the folders of a file below ``base``, in their order, and in the name of ``base`` itself.

    >>> partition_of("/shop/year=2026/a.parquet", "/shop")
    (('year', '2026'),)
    >>> partition_of("/shop/year=2026/a.parquet", "/shop/year=2026")
    (('year', '2026'),)
    """
    while "=" in name(base)[1:]:  # a partition, or one file of it, was given itself
        base = parent(base)
    folders = uri.removeprefix(f"{base.rstrip('/')}/").split("/")[:-1]
    pairs = [folder.partition("=") for folder in folders if "=" in folder[1:]]
    return tuple((chosen.rename(unquote(key)), None if value == HIVE_NULL else unquote(value)) for key, _, value in pairs)


def add_fields(schema: pa.Schema, partition: Partition) -> pa.Schema:
    """Add the partition's columns, as text, except those that the file already has."""
    added = [pa.field(column, pa.string()) for column, _ in partition if column not in schema.names]
    return pa.schema([*schema, *added], metadata=schema.metadata)


def add_columns(table: pa.Table, partition: Partition) -> pa.Table:
    """Add the partition's columns to a table of its file, except those that the table already has."""
    for column, value in partition:
        if column not in table.column_names:
            table = table.append_column(column, pa.array([value] * table.num_rows, pa.string()))
    return table
