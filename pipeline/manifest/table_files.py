"""Open the files of tables, and translate the errors of their readers."""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.storage.errors import describe_error, is_corruption, library_errors
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

TableKind = Literal["parquet", "csv", "jsonl", "tar"]

TABLES: dict[str, TableKind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
    ".tar": "tar",
}
"""Suffixes of tables."""

NAMED_TABLES: dict[str, TableKind] = {".json": "jsonl", ".json.gz": "jsonl"}
"""Suffixes of tables that are ignored in a folder, since most JSON files are not manifests."""

ROWS = 8192
"""Maximum rows per table."""

TABLE_BYTES = 8 * 2**20
"""Approximate maximum size of the cells of one table, in bytes. Compressed cells can be far larger than their file."""

HEAD_BYTES = 1 << 20
"""Bytes that are read to find the columns of a text file."""


@contextlib.contextmanager
def translate_errors(uri: str, kind: str) -> Iterator[None]:
    """Convert exceptions of readers.

    Raises:
        ConfigError: The file can't be read, or it is damaged or not of this kind.
    """
    try:
        yield
    except (pa.ArrowException, *library_errors(), EOFError, zlib.error, csv.Error) as error:
        if not is_corruption(error):
            raise ConfigError(f"the manifest can't be read: {describe_error(error, uri)}") from error
        # The text may quote a row with a signed URL.
        first = re.sub(r"\?\S*", "?…", (str(error).splitlines() or [""])[0])[:200]
        raise ConfigError(f"{redact(uri)} is damaged, or not a {kind}: {first}") from error


@contextlib.contextmanager
def open_text(uri: str, files: Files) -> Iterator[Any]:
    """Open a file sequentially, and decompress it if its name ends in .gz."""
    with files.open_input(uri, sequential=True) as source:
        yield pa.CompressedInputStream(source, "gzip") if uri.lower().endswith(".gz") else source


def check_utf8(uri: str, files: Files) -> None:
    """Check that each line of a text file is UTF-8.

    Raises:
        ConfigError: It names the first line that isn't.
    """
    with open_text(uri, files) as stream:
        decoder = codecs.getincrementaldecoder("utf-8")()
        lines, block = 1, b""
        try:
            while block := stream.read(HEAD_BYTES):
                lines += decoder.decode(block).count("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise not_utf8(uri, lines + error.object[: error.start].count(b"\n"), error) from None


def not_utf8(uri: str, line: int, error: UnicodeDecodeError) -> ConfigError:
    """Return the error about a line of text."""
    return ConfigError(
        f"{redact(uri)}: line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8"
    )


def table_kind(uri: str, suffixes: Mapping[str, TableKind]) -> TableKind | None:
    """Return the kind of a table by its suffix, regardless of case; None if it is no table."""
    return next((kind for suffix, kind in suffixes.items() if uri.lower().endswith(suffix)), None)
