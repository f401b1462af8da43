"""Read CSV files as tables of text."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.manifest.items import OWN_COLUMNS, clean_names, is_name
from pipeline.manifest.table_files import HEAD_BYTES, ROWS, check_utf8, open_text, translate_errors
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

_BLOCK = 2 << 20
"""Bytes that are parsed at once, and the limit of a row. PyArrow reads 32 blocks ahead, whatever they contain."""

_CSV = "CSV file in UTF-8"


class _Header(NamedTuple):
    names: list[str]
    """The column names as they are in the file. Columns without a name are read by nobody."""
    lines_before: int
    """Lines of empty cells before the names."""
    has_rows: bool


def csv_schema(uri: str, files: Files, chosen: Columns) -> pa.Schema:
    """Return the columns of a file, all of text.

    Raises:
        ConfigError: The file is empty or damaged.
    """
    names = filter(is_name, _header(uri, files).names)
    return pa.schema([(name, pa.string()) for name in clean_names(list(names), redact(uri), chosen)])


def csv_rows(uri: str, files: Files, chosen: Columns) -> Iterator[pa.Table]:
    """Yield tables of at most ``ROWS`` rows.

    Raises:
        ConfigError: The file is empty or damaged, or a row is too long or has another number of cells than the names.
    """
    header = _header(uri, files)
    if not header.has_rows:
        return
    columns = list(filter(is_name, header.names))
    clean = clean_names(columns, redact(uri), chosen)
    invalid: list[Any] = []

    def reject(row: Any) -> str:
        if not row.text.strip(', \t\r\n"'):
            return "skip"
        invalid.append(row)
        return "error"

    options: dict[str, Any] = {
        "read_options": pyarrow.csv.ReadOptions(block_size=_BLOCK, use_threads=False, skip_rows=header.lines_before),
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
    with translate_errors(uri, _CSV), open_text(uri, files) as stream:
        try:
            for batch in pyarrow.csv.open_csv(stream, **options):
                for start in range(0, batch.num_rows, ROWS):
                    yield _trim(pa.Table.from_batches([batch.slice(start, ROWS)]).rename_columns(clean), own)
        except pa.ArrowInvalid as error:
            if "straddling" in str(error):
                raise ConfigError(
                    f"{redact(uri)}: a row of this CSV file has more than {_BLOCK} bytes; shorten its cells, or write Parquet"
                ) from error
            if not invalid:
                check_utf8(uri, files)
                raise
            raise ConfigError(
                f"{redact(uri)}: row {invalid[0].number} has {invalid[0].actual_columns} columns, the first row has "
                f"{len(header.names)}; quote values that contain a comma"
            ) from error


def _header(uri: str, files: Files) -> _Header:
    with translate_errors(uri, _CSV), open_text(uri, files) as stream:
        head = stream.read(HEAD_BYTES)
        try:
            # The end of the head may split a character; the end of the file may not.
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < HEAD_BYTES)
        except UnicodeDecodeError:
            check_utf8(uri, files)
            raise
        source = io.StringIO(text, newline="")
        reader = csv.reader(source)
        lines, names = 0, list[str]()
        for record in reader:
            if any(map(is_name, record)):
                names = record
                break
            lines = reader.line_num
        has_rows = len(head) == HEAD_BYTES or bool(source.read().strip())  # not by csv, which limits the size of cells
    if not names:
        raise ConfigError(f"the manifest {redact(uri)} is empty; its first line must name the columns, one of them image_uri")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ConfigError(f"the manifest {redact(uri)} is not separated by commas; write it with commas")
    return _Header(names, lines, has_rows)


def _trim(table: pa.Table, names: list[str]) -> pa.Table:
    """Remove spaces around the values of these columns, which often follow commas."""
    for name in names:
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pc.utf8_trim_whitespace(table.column(index)))
    return table
