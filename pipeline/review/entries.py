"""The items of a report page: the rows of the index, worst first, with the columns that the user wants to see."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.manifest.id_set import contains, hash_ids, merge_ids
from pipeline.manifest.tags import parse_tags
from pipeline.output.index import map_parts, read_index, read_schema
from pipeline.output.output import Output
from pipeline.review.versions import VERSION_COLUMNS, version_of
from pipeline.schema import INDEX, carried_name

MAX_LISTED = 200_000
"""Items on a page, worst first. A longer list opens slowly."""

COLUMNS = ("item_id", "status", "error_code", "error_detail", "quality", "reasons", "tags")
MAX_CHARS = 300
"""Characters of a message on the page."""

MAX_CELL_CHARS = 200
"""Characters of a manifest's value on the page."""

MAX_SHOWN = 6
"""Columns of the manifest that are shown unless the user names columns."""

PARTS_LOOKED_AT = 32
"""Index parts whose columns are looked up. Parts have different columns if a manifest got new ones."""


def shown_columns(output: Output, wanted: Sequence[str] | None) -> dict[str, str]:
    """Return the index columns to show, and the names that the manifest has for them.

    Args:
        output: The output.
        wanted: Names of columns of the manifest or of the index. None: the first ``MAX_SHOWN`` of the manifest that hold
            single values.

    Raises:
        ConfigError: A wanted column does not exist.
        StorageError: A part of the index cannot be read, or is damaged.
    """
    if wanted is not None and not wanted:
        return {}
    found: dict[str, pa.DataType] = {}
    for schema in map_parts(lambda part: read_schema(part, output.files), islice(output.parts(), PARTS_LOOKED_AT)):
        for field in schema:
            found.setdefault(field.name, field.type)
    carried = {name: kind for name, kind in found.items() if name not in INDEX.names}
    if wanted is None:
        single = [name for name, kind in carried.items() if not pa.types.is_nested(kind) and name != "tags"]
        return {name: _manifest_name(name) for name in single[:MAX_SHOWN]}
    chosen = {}
    for name in wanted:
        column = carried_name(name) if carried_name(name) in carried else name
        if column not in found:
            names = ", ".join(map(_manifest_name, carried)) or "none"
            raise ConfigError(f"--show {name}: there is no such column; columns of the manifest: {names}")
        chosen[column] = name
    return chosen


def list_rows(output: Output, shown: Sequence[str] = (), count: int = MAX_LISTED) -> tuple[list[dict[str, Any]], int]:
    """Return the worst rows, failed ones first, then by rising quality, and the number of all rows.

    ``shown`` names further columns, whose values become texts in the row's ``shown``.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    total = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal total
        for part in _parts(output, shown):
            total += part.num_rows
            yield from _rows(part, shown)

    worst = heapq.nsmallest(count, rows(), key=_rank)
    return worst, total


def find_rows(output: Output, ids: Collection[str], shown: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of these items as ``list_rows`` does, in the order of the ids. Unknown ids are left out.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    wanted = merge_ids([hash_ids(pa.array(list(ids), pa.string()))])
    found: dict[str, dict[str, Any]] = {}
    for part in _parts(output, shown):
        chosen = part.filter(pa.array(contains(wanted, hash_ids(part["item_id"]))))
        found |= {row["item_id"]: row for row in _rows(chosen, shown)}
    return [found[item_id] for item_id in ids if item_id in found]


def _parts(output: Output, shown: Sequence[str]) -> Iterator[pa.Table]:
    return read_index(output, list(dict.fromkeys([*COLUMNS, *VERSION_COLUMNS, *shown])))


def _rows(part: pa.Table, shown: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row in part.to_pylist():
        texts = {"tags": parse_tags(row.get("tags")), "error_detail": (row["error_detail"] or "")[:MAX_CHARS]}
        texts |= {"version": version_of(row), "shown": [cell_text(row.get(name)) for name in shown]}
        yield {name: row.get(name) for name in COLUMNS} | texts


def cell_text(value: Any) -> str:
    """Format a value of a manifest; "" for null, NaN and bytes."""
    if value is None or isinstance(value, bytes) or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    text = ", ".join(map(cell_text, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MAX_CELL_CHARS else text[: MAX_CELL_CHARS - 1] + "…"


def _manifest_name(column: str) -> str:
    """Return the manifest's own name of a carried column; see ``carried_name``."""
    own = column.removeprefix("manifest_")
    return own if carried_name(own) == column else column


def _rank(row: dict[str, Any]) -> tuple[float, str]:
    quality = row["quality"]
    return (-1.0 if quality is None or math.isnan(quality) else quality, row["item_id"])
