"""Read Parquet, CSV and JSON Lines files as tables, in fragments that can be read independently.

Column names are stripped of surrounding spaces. Columns keep the type of the file; CSV columns are text, and for JSON Lines
see ``_json_schema``.
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
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.errors import ConfigError
from pipeline.manifest.items import CORNERS, OWN_COLUMNS, clean_names, roles
from pipeline.manifest.pieces import pieces
from pipeline.storage.errors import LIBRARY_ERRORS, describe_error, is_corruption
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

TableKind = Literal["parquet", "csv", "jsonl"]

ROWS = 8192
"""Maximum rows per table."""

NESTED_ROWS = 1024
"""Maximum rows per table of a Parquet file with lists, whose repetitions its metadata does not count."""

TABLE_BYTES = 8 * 2**20
"""Bytes of the cells of one table, about, at most. A few repeated or compressible cells can be far larger than their file."""

MAX_LARGE_CELLS_BYTES, LARGE_CELL_BYTES = 64 * 2**20, 16 * 2**10
"""Uncompressed bytes of a column in one Parquet row group, at most, if its values are larger than the second number."""

MAX_LINE_BYTES = 4 * 2**20
"""Bytes of one line of JSON Lines, at most."""

FRAGMENT_ROWS = 65_536
"""Smaller Parquet row groups are combined up to this size."""

JSON_TEXT = {b"about": b"JSON text: the manifest's values differ in type, or are nested"}

SCHEMA_THREADS = 16
"""Files whose schemas are read concurrently."""

_HEAD_BYTES = 1 << 20
_CSV_BLOCK = 4 << 20
_CSV = "CSV file in UTF-8"


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


def read_schema(kind: TableKind, uris: Sequence[str], files: Files) -> tuple[pa.Schema, list[Fragment]]:
    """Return the unified schema of the carried columns (JSON Lines: of all columns) and the fragments of some files.

    Parquet and CSV files are read at their end or beginning only; JSON Lines files are read completely to infer types.

    Raises:
        ConfigError: A file is empty, damaged, of another kind, without ``image_uri``, or incompatible with the others.
    """
    if kind == "jsonl":
        lines = chain.from_iterable(_json_lines(uri, files) for uri in uris)
        schema = _json_schema((line.row for line in lines), redact(uris[0]))
        roles(schema, redact(uris[0]))
        return schema, [Fragment(uri) for uri in uris]
    read_one = _parquet_schema if kind == "parquet" else _csv_schema
    with ThreadPoolExecutor(SCHEMA_THREADS) as pool:
        results = list(pool.map(lambda uri: read_one(uri, files), uris))
    for uri, (schema, _) in zip(uris, results, strict=True):
        roles(schema, redact(uri))
    # Dictionaries differ from file to file, so only their value types are kept.
    carried = [
        [
            (field.name, field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
            for field in schema
            if field.name not in OWN_COLUMNS
        ]
        for schema, _ in results
    ]
    try:
        schema = pa.unify_schemas([pa.schema(fields) for fields in carried], promote_options="permissive")
    except pa.ArrowException as error:
        raise ConfigError(f"the manifest's files have incompatible columns: {str(error).splitlines()[0]}") from error
    return schema, [fragment for _, fragments in results for fragment in fragments]


def read_rows(kind: TableKind, fragment: Fragment, schema: pa.Schema, files: Files) -> Iterator[pa.Table]:
    """Read a fragment in tables of at most 8192 rows. JSON Lines need the ``schema`` of ``read_schema``.

    Raises:
        ConfigError: The file is damaged.
    """
    if kind == "parquet":
        return _parquet_rows(fragment, files)
    if kind == "csv":
        return _csv_rows(fragment.uri, files)
    return _json_rows(_json_lines(fragment.uri, files), fragment.uri, schema)


@contextlib.contextmanager
def translate_errors(uri: str, kind: str) -> Iterator[None]:
    """Convert exceptions of readers.

    Raises:
        ConfigError: The file can't be read, or it is damaged or not of this kind.
    """
    try:
        yield
    except (pa.ArrowException, *LIBRARY_ERRORS, EOFError, zlib.error, csv.Error) as error:
        if not is_corruption(error):
            raise ConfigError(f"the manifest can't be read: {describe_error(error, uri)}") from error
        # The text may quote a row with a signed URL.
        first = re.sub(r"\?\S*", "?…", (str(error).splitlines() or [""])[0])[:200]
        raise ConfigError(f"{redact(uri)} is damaged, or not a {kind}: {first}") from error


def _parquet_schema(uri: str, files: Files) -> tuple[pa.Schema, list[Fragment]]:
    with translate_errors(uri, "Parquet file"), files.open_input(uri) as source:
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
    return pa.schema(list(zip(clean_names(schema.names, redact(uri)), schema.types, strict=True))), fragments


def _check_cells(row_group: Any, uri: str) -> None:
    """Refuse cells whose pages could be too large for memory: a reader decompresses complete pages.

    Raises:
        ConfigError: It names the column.
    """
    for column in map(row_group.column, range(row_group.num_columns)):
        size, rows = column.total_uncompressed_size, column.num_values
        if size > MAX_LARGE_CELLS_BYTES and size / max(1, rows) > LARGE_CELL_BYTES:
            raise ConfigError(
                f"{redact(uri)}: the column {column.path_in_schema!r} has {size // 2**20} MiB in {rows} rows of one row group; "
                "drop it, or write row groups of fewer rows"
            )


def _parquet_rows(fragment: Fragment, files: Files) -> Iterator[pa.Table]:
    with translate_errors(fragment.uri, "Parquet file"), files.open_input(fragment.uri) as source:
        file = pq.ParquetFile(source)
        names = clean_names(file.schema_arrow.names, redact(fragment.uri))
        # As dictionaries, repeated texts are in memory once.
        texts = [
            field.name for field in file.schema_arrow if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        file = pq.ParquetFile(source, pre_buffer=True, read_dictionary=texts)
        is_nested = any(pa.types.is_nested(field.type) for field in file.schema_arrow)
        for group in fragment.row_groups:
            facts = file.metadata.row_group(group)
            _check_cells(facts, fragment.uri)
            row_bytes = sum(facts.column(at).total_uncompressed_size for at in range(facts.num_columns)) / max(
                1, facts.num_rows
            )
            rows = max(1, min(NESTED_ROWS if is_nested else ROWS, int(TABLE_BYTES / max(1.0, row_bytes))))
            for batch in file.iter_batches(rows, row_groups=[group]):
                yield from _small_tables(pa.Table.from_batches([batch]).rename_columns(names))


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


def _csv_schema(uri: str, files: Files) -> tuple[pa.Schema, list[Fragment]]:
    names, _ = _csv_header(uri, files)
    clean = clean_names([name for name in names if name.strip()], redact(uri))
    return pa.schema([(name, pa.string()) for name in clean]), [Fragment(uri)]


def _csv_header(uri: str, files: Files) -> tuple[list[str], bool]:
    """Return the unmodified column names, and whether a row follows. Columns without a name are read by nobody."""
    with translate_errors(uri, _CSV), _open_text(uri, files) as stream:
        head = stream.read(_HEAD_BYTES)
        # The end of the head may split a character; the end of the file may not.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < _HEAD_BYTES)
        reader = csv.reader(io.StringIO(text, newline=""))
        names = next((record for record in reader if record), [])
        has_rows = any(record for record in reader)
    if not names:
        raise ConfigError(f"the manifest {redact(uri)} is empty; its first line must name the columns, one of them image_uri")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ConfigError(f"the manifest {redact(uri)} is not separated by commas; write it with commas")
    return names, has_rows


def _csv_rows(uri: str, files: Files) -> Iterator[pa.Table]:
    names, has_rows = _csv_header(uri, files)
    if not has_rows:
        return
    columns = [name for name in names if name.strip()]
    clean = clean_names(columns, redact(uri))
    invalid: list[Any] = []

    def reject(row: Any) -> str:
        invalid.append(row)
        return "error"

    options: dict[str, Any] = {
        "read_options": pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK, use_threads=False),
        "parse_options": pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=reject),
        "convert_options": pyarrow.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    }
    own = [name for name in OWN_COLUMNS if name in clean]
    with translate_errors(uri, _CSV), _open_text(uri, files) as stream:
        try:
            for batch in pyarrow.csv.open_csv(stream, **options):
                for start in range(0, batch.num_rows, ROWS):
                    rows = pa.Table.from_batches([batch.slice(start, ROWS)]).rename_columns(clean)
                    yield _trim(_without_blank(rows), own)
        except pa.ArrowInvalid as error:
            if not invalid:
                raise
            raise ConfigError(
                f"{redact(uri)}: row {invalid[0].number} has {invalid[0].actual_columns} columns, the first row has "
                f"{len(names)}; quote values that contain a comma"
            ) from error


def _without_blank(table: pa.Table) -> pa.Table:
    """Drop rows of empty cells, which spreadsheets write below their last row."""
    filled = np.zeros(table.num_rows, np.bool_)
    for column in table.columns:
        filled |= pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False).to_numpy()
        if filled.all():
            return table
    return table.filter(pa.array(filled))


def _trim(table: pa.Table, names: list[str]) -> pa.Table:
    """Remove spaces around the values of these columns, which often follow commas."""
    for name in names:
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pc.utf8_trim_whitespace(table.column(index)))
    return table


def _json_schema(rows: Iterable[dict[str, Any]], source: str) -> pa.Schema:
    """Infer one type per column: booleans, integers, numbers and text are kept, mixed or nested values become JSON text."""
    types: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kind = type(value)
            if kind is int and not -(2**63) <= value < 2**63:
                kind = object
            types.setdefault(name, set()).add(kind)
    if not types:
        raise ConfigError(f"the manifest {source} is empty; give one JSON object per line, each with an image_uri")
    names = clean_names(list(types), source)
    return pa.schema([_json_field(name, kinds) for name, kinds in zip(names, types.values(), strict=True)])


def _json_field(name: str, kinds: set[type]) -> pa.Field:
    kinds = kinds - {type(None)}
    if name in ("image_uri", "item_id") or kinds <= {str}:
        return pa.field(name, pa.string())
    if kinds <= {int, float}:
        return pa.field(name, pa.int64() if kinds == {int} else pa.float64())
    if kinds == {bool}:
        return pa.field(name, pa.bool_())
    return pa.field(name, pa.string()) if name in CORNERS else pa.field(name, pa.string(), metadata=JSON_TEXT)


def _json_rows(lines: Iterator[_JsonLine], uri: str, schema: pa.Schema) -> Iterator[pa.Table]:
    for chunk in _chunks(lines):
        names = list(dict.fromkeys(name for row in chunk for name in row))
        columns = {}
        for name, clean in zip(names, clean_names(names, redact(uri)), strict=True):
            columns[clean] = _json_column(clean, [row.get(name) for row in chunk], schema.field(clean))
        columns.setdefault("image_uri", pa.nulls(len(chunk), pa.string()))
        yield pa.table(columns)


def _chunks(lines: Iterator[_JsonLine]) -> Iterator[list[dict[str, Any]]]:
    """Yield at most ``ROWS`` rows of at most ``TABLE_BYTES`` together."""
    chunk: list[dict[str, Any]] = []
    used = 0
    for line in lines:
        if chunk and (len(chunk) == ROWS or used + line.bytes > TABLE_BYTES):
            yield chunk
            chunk, used = [], 0
        chunk.append(line.row)
        used += line.bytes
    if chunk:
        yield chunk


def _json_column(name: str, values: list[Any], field: pa.Field) -> pa.Array:
    if name == "image_uri":
        return pa.array([value if isinstance(value, str) else None for value in values], pa.string())
    if name == "box":
        with contextlib.suppress(pa.ArrowException, TypeError, OverflowError):
            return pa.array(values, pa.list_(pa.float64()))
    if not pa.types.is_string(field.type):
        return pa.array(values, field.type)
    # If one carried value needs JSON text, all values get it, so that "1" and 1 stay distinct.
    plain = str if field.metadata is None or name in OWN_COLUMNS else ()
    texts = [value if value is None or isinstance(value, plain) else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.array(texts, pa.string())


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def _mend(value: Any) -> Any:
    """Replace halves of surrogate pairs, as of an emoji that was cut in two, by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mend(key): _mend(one) for key, one in value.items()}
    return [_mend(one) for one in value] if isinstance(value, list) else value


class _JsonLine(NamedTuple):
    row: dict[str, Any]
    bytes: int


def _json_lines(uri: str, files: Files) -> Iterator[_JsonLine]:
    with translate_errors(uri, "JSON Lines file"), _open_text(uri, files) as stream:
        reader = io.BufferedReader(stream, _HEAD_BYTES)
        for number, line in enumerate(iter(lambda: reader.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(f"{redact(uri)}: line {number} has more than {MAX_LINE_BYTES} bytes; write one item per line")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                hint = "; write one object per line, not a list" if text.lstrip().startswith("[") else ""
                raise ConfigError(f"{redact(uri)}: line {number} is not JSON{hint}") from error
            if _HALF.search(text):
                row = _mend(row)
            if not isinstance(row, dict):
                raise ConfigError(f"{redact(uri)}: line {number} is not a JSON object; write one object per line, not a list")
            yield _JsonLine(row, len(line))


@contextlib.contextmanager
def _open_text(uri: str, files: Files) -> Iterator[Any]:
    """Open a file sequentially, and decompress it if its name ends in .gz."""
    with files.open_input(uri, sequential=True) as source:
        yield pa.CompressedInputStream(source, "gzip") if uri.lower().endswith(".gz") else source
