"""Parquet, CSV and JSON Lines files as tables of rows, in pieces that can be read independently.

Column names come out without surrounding spaces; columns keep the type the file gives them (CSV: text throughout; JSON
Lines: see ``_json_columns``).
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.manifest.items import CORNERS, OWN, clean_names, roles
from pipeline.storage.errors import LIBRARY_ERRORS, describe_error, is_damage
from pipeline.storage.files import Files
from pipeline.storage.uris import shown

TableKind = Literal["parquet", "csv", "jsonl"]

ROWS = 8192
"""Rows a table, at most."""

FRAGMENT_ROWS = 65_536
"""Row groups smaller than this are read together."""

JSON_TEXT = {b"about": b"JSON text: the manifest's values differ in type, or are nested"}

HEADS_AT_ONCE = 16
"""Files whose columns are asked for at once."""

_HEAD = 1 << 20
_CSV_BLOCK = 4 << 20


@dataclass(frozen=True)
class Fragment:
    """A piece of a manifest that can be read on its own."""

    uri: str
    """A table file, or the folder of a listing."""
    first_row: int = 1
    """Number of its first row within the file."""
    row_groups: tuple[int, ...] = ()
    """Parquet only."""
    names: bytes = b""
    """Listings only: the images' paths below ``uri``, as compressed JSON."""


def columns(kind: TableKind, uris: Sequence[str], files: Files) -> tuple[pa.Schema, list[Fragment]]:
    """The further columns of some files together (JSON Lines: all columns), and the files' pieces.

    Of Parquet and CSV files only the beginning or end is read; JSON Lines are read through, for their types.

    Raises:
        ConfigError: a file is empty, damaged, of another kind, without ``image_uri``, or doesn't go with the others.
    """
    if kind == "jsonl":
        lines = chain.from_iterable(_lines(uri, files) for uri in uris)
        schema = _json_columns(lines, shown(uris[0]))
        roles(schema, shown(uris[0]))
        return schema, [Fragment(uri) for uri in uris]
    head = _parquet_head if kind == "parquet" else _csv_columns
    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        heads = list(pool.map(lambda uri: head(uri, files), uris))
    for uri, (schema, _) in zip(uris, heads, strict=True):
        roles(schema, shown(uri))
    further = [
        pa.schema([pa.field(field.name, _settled(field.type)) for field in schema if field.name not in OWN])
        for schema, _ in heads
    ]
    try:
        schema = pa.unify_schemas(further, promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigError(f"the manifest's files don't go together: {str(error).splitlines()[0]}") from error
    return schema, [fragment for _, fragments in heads for fragment in fragments]


def rows(kind: TableKind, fragment: Fragment, schema: pa.Schema, files: Files) -> Iterator[pa.Table]:
    """The fragment's rows in tables of at most 8192.

    Args:
        schema: what ``columns`` found; JSON Lines need its types.

    Raises:
        ConfigError: the file is damaged.
    """
    if kind == "parquet":
        return _parquet_rows(fragment, files)
    return _csv_rows(fragment.uri, files) if kind == "csv" else _json_rows(_lines(fragment.uri, files), fragment.uri, schema)


@contextlib.contextmanager
def reading(uri: str, kind: str) -> Iterator[None]:
    """Turn what readers raise into one sentence.

    Raises:
        ConfigError: instead of any of it.
    """
    try:
        yield
    except (pa.ArrowException, *LIBRARY_ERRORS, EOFError, zlib.error, csv.Error) as error:
        if not is_damage(error):
            raise ConfigError(f"the manifest can't be read: {describe_error(error, uri)}") from error
        # A query in a quoted row may be a signature.
        first = re.sub(r"\?\S*", "?…", (str(error).splitlines() or [""])[0])[:200]
        raise ConfigError(f"{shown(uri)} is damaged, or no {kind}: {first}") from error


def _settled(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries, which differ from file to file."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


# Parquet


def _parquet_head(uri: str, files: Files) -> tuple[pa.Schema, list[Fragment]]:
    with reading(uri, "Parquet file"), files.open_input(uri) as source:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    fragments: list[Fragment] = []
    groups: list[int] = []
    first_row = next_row = 1
    for group, count in enumerate(counts):
        groups.append(group)
        next_row += count
        if next_row - first_row >= FRAGMENT_ROWS or group == len(counts) - 1:
            fragments.append(Fragment(uri, first_row, tuple(groups)))
            groups, first_row = [], next_row
    plain = [pa.field(name, field.type) for name, field in zip(clean_names(schema.names, shown(uri)), schema, strict=True)]
    return pa.schema(plain), fragments


def _parquet_rows(fragment: Fragment, files: Files) -> Iterator[pa.Table]:
    with reading(fragment.uri, "Parquet file"), files.open_input(fragment.uri) as source:
        file = pq.ParquetFile(source, pre_buffer=True)
        names = clean_names(file.schema_arrow.names, shown(fragment.uri))
        for batch in file.iter_batches(ROWS, row_groups=list(fragment.row_groups)):
            yield pa.Table.from_batches([batch]).rename_columns(names)


# CSV


def _csv_columns(uri: str, files: Files) -> tuple[pa.Schema, list[Fragment]]:
    names, _ = _csv_head(uri, files)
    return pa.schema([(name, pa.string()) for name in clean_names(names, shown(uri))]), [Fragment(uri)]


def _csv_head(uri: str, files: Files) -> tuple[list[str], bool]:
    """The column names as they are written, and whether any row follows."""
    with reading(uri, "CSV file in UTF-8"), _stream(uri, files) as stream:
        head = stream.read(_HEAD)
        # A character may be cut in two at the end of the head, but not at the end of the file.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < _HEAD)
        reader = csv.reader(io.StringIO(text, newline=""))
        names = next((record for record in reader if record), [])
        follows = any(record for record in reader)
    if not names:
        raise ConfigError(f"the manifest {shown(uri)} is empty; its first line must name the columns, one of them image_uri")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ConfigError(f"the manifest {shown(uri)} is not separated by commas; write it with commas")
    return names, follows


def _csv_rows(uri: str, files: Files) -> Iterator[pa.Table]:
    names, follows = _csv_head(uri, files)
    clean = clean_names(names, shown(uri))
    if not follows:
        return
    bad: list[Any] = []

    def refuse(row: Any) -> str:
        bad.append(row)
        return "error"

    options: dict[str, Any] = {
        "read_options": pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK, use_threads=False),
        "parse_options": pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    }
    own = [name for name in OWN if name in clean]
    with reading(uri, "CSV file in UTF-8"), _stream(uri, files) as stream:
        try:
            for batch in pyarrow.csv.open_csv(stream, **options):
                for start in range(0, batch.num_rows, ROWS):
                    yield _trimmed(pa.Table.from_batches([batch.slice(start, ROWS)]).rename_columns(clean), own)
        except pa.ArrowInvalid as error:
            if not bad:
                raise
            raise ConfigError(
                f"{shown(uri)}: row {bad[0].number} has {bad[0].actual_columns} columns, the first row has {len(names)}; "
                "put values that hold a comma in quotes"
            ) from error


def _trimmed(table: pa.Table, names: list[str]) -> pa.Table:
    """Without the spaces that people leave after commas, in the columns that mean something here."""
    for name in names:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pc.utf8_trim_whitespace(table.column(place)))
    return table


# JSON Lines


def _json_columns(lines: Iterable[dict[str, Any]], where: str) -> pa.Schema:
    """The columns of all lines with one type each.

    Truth values, whole numbers, numbers and text keep their type; columns of mixed or nested values become JSON text.
    """
    kinds: dict[str, set[type]] = {}
    for row in lines:
        for name, value in row.items():
            kind = type(value)
            if kind is int and not -(2**63) <= value < 2**63:
                kind = object
            kinds.setdefault(name, set()).add(kind)
    if not kinds:
        raise ConfigError(f"the manifest {where} is empty; give one JSON object a line, with an image_uri each")
    names = clean_names(list(kinds), where)
    return pa.schema([_json_field(name, found) for name, found in zip(names, kinds.values(), strict=True)])


def _json_field(name: str, kinds: set[type]) -> pa.Field:
    kinds = kinds - {type(None)}
    if name in ("image_uri", "item_id") or kinds <= {str}:
        return pa.field(name, pa.string())
    if kinds <= {int, float}:
        return pa.field(name, pa.int64() if kinds == {int} else pa.float64())
    if kinds == {bool}:
        return pa.field(name, pa.bool_())
    return pa.field(name, pa.string()) if name in CORNERS else pa.field(name, pa.string(), metadata=JSON_TEXT)


def _json_rows(lines: Iterator[dict[str, Any]], uri: str, schema: pa.Schema) -> Iterator[pa.Table]:
    while chunk := list(islice(lines, ROWS)):
        names = list(dict.fromkeys(name for row in chunk for name in row))
        clean = clean_names(names, shown(uri))
        columns = {}
        for name, plain in zip(names, clean, strict=True):
            columns[plain] = _json_values(plain, [row.get(name) for row in chunk], schema.field(plain))
        columns.setdefault("image_uri", pa.nulls(len(chunk), pa.string()))
        yield pa.table(columns)


def _json_values(name: str, values: list[Any], field: pa.Field) -> pa.Array:
    if name == "image_uri":
        return pa.array([value if isinstance(value, str) else None for value in values], pa.string())
    if name == "box":
        with contextlib.suppress(pa.ArrowException, TypeError, OverflowError):
            return pa.array(values, pa.list_(pa.float64()))
    if not pa.types.is_string(field.type):
        return pa.array(values, field.type)
    # Where any carried value had to become JSON text, all of them do: "1" and 1 stay apart.
    plain = str if field.metadata is None or name in OWN else ()
    texts = [value if value is None or isinstance(value, plain) else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.array(texts, pa.string())


def _lines(uri: str, files: Files) -> Iterator[dict[str, Any]]:
    with reading(uri, "JSON Lines file"), _stream(uri, files) as stream:
        for number, line in enumerate(io.BufferedReader(stream, _HEAD), 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                hint = "; write one object a line, not a list" if text.lstrip().startswith("[") else ""
                raise ConfigError(f"{shown(uri)}: line {number} is not JSON{hint}") from error
            if not isinstance(row, dict):
                raise ConfigError(f"{shown(uri)}: line {number} is no JSON object; write one object a line, not a list")
            yield row


@contextlib.contextmanager
def _stream(uri: str, files: Files) -> Iterator[Any]:
    """A file from front to back, unpacked if its name ends in .gz."""
    with files.open_input(uri, sequential=True) as source:
        yield pa.CompressedInputStream(source, "gzip") if uri.lower().endswith(".gz") else source
