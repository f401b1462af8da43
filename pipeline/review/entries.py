"""The items of a report page: all index rows as a list, and some of them with pictures."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.errors import ItemError
from pipeline.imaging.decode import decode
from pipeline.imaging.png import RESOURCE_ERRORS
from pipeline.imaging.validate import decode_cutout, decode_mask
from pipeline.imaging.views import Views, views
from pipeline.manifest.id_set import contains, hash_ids, merge_ids
from pipeline.manifest.tags import parse_tags
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.types import Mask, Pixels

MAX_LISTED = 200_000
"""Items on a page, worst first. A longer list opens slowly."""

COLUMNS = ("item_id", "status", "error_code", "error_detail", "quality", "reasons", "tags")
PICTURE_COLUMNS = (*COLUMNS, "image_uri", "signals", "mask_path", "cutout_path", "run_id")
THREADS = 4
MAX_CHARS = 300
"""Characters of a message on the page."""


@dataclass
class Entry:
    """One item with its pictures. ``notes`` names missing pictures, and why they are missing."""

    row: dict[str, Any]
    views: Views | None = None
    notes: list[str] = field(default_factory=list)


def list_rows(output: Output, count: int = MAX_LISTED) -> tuple[list[dict[str, Any]], int]:
    """Return the worst rows, failed ones first, then by rising quality, and the number of all rows.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    total = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal total
        for part in read_index(output, COLUMNS):
            total += part.num_rows
            for row in part.to_pylist():
                yield row | {"tags": parse_tags(row.get("tags")), "error_detail": (row["error_detail"] or "")[:MAX_CHARS]}

    worst = heapq.nsmallest(count, rows(), key=_rank)
    return worst, total


def load_entries(
    output: Output,
    allowlist: AllowList,
    ids: Collection[str],
    windows: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> list[Entry]:
    """Return these items with pictures, in the order of the ids. A missing picture is a note and no error.

    ``windows`` has the corner of the window to show at 1:1, by id; see ``views``.

    Raises:
        StorageError: A part of the index cannot be read, or is damaged.
    """
    wanted = merge_ids([hash_ids(pa.array(list(ids), pa.string()))])
    rows: dict[str, dict[str, Any]] = {}
    for part in read_index(output, PICTURE_COLUMNS):
        chosen = part.filter(pa.array(contains(wanted, hash_ids(part["item_id"]))))
        rows |= {row["item_id"]: row | {"tags": parse_tags(row.get("tags"))} for row in chosen.to_pylist()}
    with ThreadPoolExecutor(THREADS) as pool:
        found = (rows[item_id] for item_id in ids if item_id in rows)
        return list(map_ahead(pool, partial(_load, output, allowlist, windows), found, 2 * THREADS))


def _rank(row: dict[str, Any]) -> tuple[float, str]:
    quality = row["quality"]
    return (-1.0 if quality is None or math.isnan(quality) else quality, row["item_id"])


def _load(output: Output, allowlist: AllowList, windows: Mapping[str, tuple[int, int]], row: dict[str, Any]) -> Entry:
    entry = Entry(row)
    photo, (colours, mask) = _photo(output.files, allowlist, entry), _cutout(output, entry)
    if mask is None and row["mask_path"] is not None:
        mask = _mask(output, entry)
    if photo is not None and mask is not None and photo.shape[:2] != mask.shape:
        entry.notes.append("the photo has changed since: its size differs from the mask's")
    try:
        entry.views = None if photo is None and mask is None else views(photo, colours, mask, windows.get(row["item_id"]))
    except RESOURCE_ERRORS as error:
        entry.notes.append(f"too large to show: {error}"[:MAX_CHARS])
    return entry


def _photo(files: Files, allowlist: AllowList, entry: Entry) -> Pixels | None:
    uri = entry.row["image_uri"]
    if uri is None:
        return None
    if not allowlist.allows(uri):
        entry.notes.append(f"photo not shown: {allowlist.refusal(uri)}"[:MAX_CHARS])
        return None
    limits = Limits()
    try:
        return decode(files.read(allowlist.real_path(uri), max_bytes=limits.max_bytes, timeout_s=limits.fetch_s), limits)
    except ItemError as error:
        entry.notes.append(f"photo not shown: {error}"[:MAX_CHARS])
        return None


def _cutout(output: Output, entry: Entry) -> tuple[Pixels | None, Mask | None]:
    if entry.row["cutout_path"] is None:
        return None, None
    try:
        return decode_cutout(output.read(entry.row["cutout_path"]))
    except ItemError as error:
        entry.notes.append(f"cutout not shown: {error}"[:MAX_CHARS])
        return None, None


def _mask(output: Output, entry: Entry) -> Mask | None:
    try:
        return decode_mask(output.read(entry.row["mask_path"]))
    except ItemError as error:
        entry.notes.append(f"mask not shown: {error}"[:MAX_CHARS])
        return None
