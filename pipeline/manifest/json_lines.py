"""Read JSON Lines as tables: one object per line."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.config.columns import Columns
from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.manifest.items import CORNERS, OWN_COLUMNS, UNNAMED, USUAL, check_count, clean_names, is_name
from pipeline.manifest.table_files import HEAD_BYTES, ROWS, TABLE_BYTES, not_utf8, open_text, translate_errors
from pipeline.storage.files import Files
from pipeline.storage.uris import redact

MAX_LINE_BYTES = 4 * 2**20
"""Bytes of one line of JSON Lines, at most."""

MAX_NESTING = 100
"""Lists and objects inside each other. A fixed limit: how deep Python may recurse depends on the caller."""

_Large = type("_Large", (), {})  # stands for integers of 64 bits that a float cannot hold exactly

JSON_TEXT = {b"about": b"JSON text: the manifest's values differ in type, or are nested"}


def json_schema(rows: Iterable[dict[str, Any]], source: str, chosen: Columns = USUAL) -> pa.Schema:
    """Infer one type per column: booleans, integers, numbers and text are kept, mixed or nested values become JSON text.

    Raises:
        ConfigError: There are no columns, too many, or two of one name.
    """
    types: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kind = type(value)
            if kind is int and not -(2**53) <= value <= 2**53:
                kind = _Large if -(2**63) <= value < 2**63 else object
            types.setdefault(name, set()).add(kind)
        check_count(types, source)
    if not types:
        raise ConfigError(f"the manifest {source} is empty; give one JSON object per line, each with an image_uri")
    unnamed = [types.pop(name) for name in list(types) if not is_name(name)]
    if unnamed:
        log.warning(UNNAMED.format(source))
    names = clean_names(list(types), source, chosen)
    return pa.schema([_json_field(name, kinds) for name, kinds in zip(names, types.values(), strict=True)])


def _json_field(name: str, kinds: set[type]) -> pa.Field:
    kinds = kinds - {type(None)}
    if name in ("image_uri", "item_id") or kinds <= {str}:
        return pa.field(name, pa.string())
    if kinds <= {int, _Large}:
        return pa.field(name, pa.int64())
    if kinds <= {int, float}:
        return pa.field(name, pa.float64())
    if kinds == {bool}:
        return pa.field(name, pa.bool_())
    return pa.field(name, pa.string()) if name in CORNERS else pa.field(name, pa.string(), metadata=JSON_TEXT)


def json_rows(lines: Iterator[JsonLine], uri: str, schema: pa.Schema, chosen: Columns = USUAL) -> Iterator[pa.Table]:
    """Yield tables of at most ``ROWS`` rows with the types of ``schema``.

    Raises:
        ConfigError: A line has a column or type that the schema lacks, because the file was changed.
    """
    for chunk in _chunks(lines):
        names = list(filter(is_name, dict.fromkeys(name for row in chunk for name in row)))
        # A box needs all of its corners, also where the rows of this chunk lack one.
        columns = {name: pa.nulls(len(chunk), schema.field(name).type) for name in CORNERS if name in schema.names}
        for name, clean in zip(names, clean_names(names, redact(uri), chosen), strict=True):
            try:
                columns[clean] = _json_column(clean, [row.get(name) for row in chunk], schema.field(clean))
            except (KeyError, pa.ArrowException, OverflowError) as error:
                raise ConfigError(
                    f"{redact(uri)} was changed after the run began (column {name[:40]!r}); run again when it is written"
                ) from error
        columns.setdefault("image_uri", pa.nulls(len(chunk), pa.string()))
        yield pa.table(columns)


def _chunks(lines: Iterator[JsonLine]) -> Iterator[list[dict[str, Any]]]:
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
    # If one value of a column must be JSON text, all are, so that "1" and 1 stay distinct.
    plain = str if field.metadata is None or name in OWN_COLUMNS else ()
    texts = [value if value is None or isinstance(value, plain) else json.dumps(value, ensure_ascii=False) for value in values]
    return pa.array(texts, pa.string())


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def _mend(value: Any) -> Any:
    """Replace unpaired surrogates, such as half an emoji, by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mend(key): _mend(one) for key, one in value.items()}
    return [_mend(one) for one in value] if isinstance(value, list) else value


def _is_deep(text: str, value: Any) -> bool:
    """Return whether the lists and objects of a value are nested deeper than ``MAX_NESTING``."""
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return False
    level = [value]
    for _ in range(MAX_NESTING):
        nested = (one.values() if isinstance(one, dict) else one for one in level)
        level = [child for children in nested for child in children if isinstance(child, dict | list)]
    return any(level)


def parse_json(text: str) -> Any:
    """Parse JSON. Halves of surrogates in it are replaced.

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    value = json.loads(text)
    return _mend(value) if _HALF.search(text) else value


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object. Halves of surrogates in it are replaced.

    Raises:
        ValueError: It is not JSON.
        TypeError: It is no object.
        RecursionError: It is nested deeper than ``MAX_NESTING``.
    """
    row = parse_json(text)
    if _is_deep(text, row):
        raise RecursionError
    if not isinstance(row, dict):
        raise TypeError("not an object")
    return row


class JsonLine(NamedTuple):
    """One object, and the bytes of its line."""

    row: dict[str, Any]
    bytes: int


def json_lines(uri: str, files: Files) -> Iterator[JsonLine]:
    """Yield the objects of a file.

    Raises:
        ConfigError: A line is too long or is not a JSON object, or the file is damaged.
    """
    with translate_errors(uri, "JSON Lines file"), open_text(uri, files) as stream:
        reader = io.BufferedReader(stream, HEAD_BYTES)
        for number, line in enumerate(iter(lambda: reader.readline(MAX_LINE_BYTES + 1), b""), 1):
            if len(line) > MAX_LINE_BYTES:
                raise ConfigError(f"{redact(uri)}: line {number} has more than {MAX_LINE_BYTES} bytes; write one item per line")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise not_utf8(uri, number, error) from None
            if not text.strip():
                continue
            try:
                row = parse_object(text)
            except TypeError as error:
                raise ConfigError(
                    f"{redact(uri)}: line {number} is not a JSON object; write one object per line, not a list"
                ) from error
            except RecursionError as error:
                raise ConfigError(
                    f"{redact(uri)}: line {number} is nested deeper than {MAX_NESTING} levels; write such values as text"
                ) from error
            except ValueError as error:
                hint = "; write one object per line, not a list" if text.lstrip().startswith("[") else ""
                raise ConfigError(f"{redact(uri)}: line {number} is not JSON{hint}") from error
            yield JsonLine(row, len(line))
