"""An index as a person looks through it: every item in a line, the worst ones with pictures."""

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
from pipeline.imaging.encode import OUT_OF_MEANS
from pipeline.imaging.validate import decode_cutout, decode_mask
from pipeline.imaging.views import Views, views
from pipeline.manifest.id_set import contains, hash_ids, merge_ids
from pipeline.manifest.tags import tags_of
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.types import Mask, Pixels

LISTED = 200_000
"""Items that are listed at most, worst first; a longer list would not open fast, and nobody would read it."""

COLUMNS = ("item_id", "status", "error_code", "error_detail", "quality", "reasons", "tags")
SHOWN = (*COLUMNS, "image_uri", "signals", "mask_uri", "cutout_uri", "run_id")
THREADS = 4
SHORT = 300
"""Characters of a sentence that the list keeps."""


@dataclass
class Entry:
    """One item with its pictures; ``notes`` says which could not be had, and why."""

    row: dict[str, Any]
    views: Views | None = None
    notes: list[str] = field(default_factory=list)


def listing(layout: Layout, files: Files, most: int = LISTED) -> tuple[list[dict[str, Any]], int]:
    """The items without pictures' places, failed ones first, then by rising quality, and how many there are in all.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    total = 0

    def every() -> Iterator[dict[str, Any]]:
        nonlocal total
        for part in read_index(layout, files, COLUMNS):
            total += part.num_rows
            for row in part.to_pylist():
                yield row | {"tags": tags_of(row.get("tags")), "error_detail": (row["error_detail"] or "")[:SHORT]}

    kept = heapq.nsmallest(most, every(), key=_rank)
    return kept, total


def entries(
    layout: Layout,
    files: Files,
    allowlist: AllowList,
    ids: Collection[str],
    places: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> list[Entry]:
    """These items with pictures, in the order of the ids; a picture that can't be had is named in ``notes``, never raised.

    Args:
        places: what to show at 1:1, by id, as ``views`` takes it.

    Raises:
        StorageError: a part of the index can't be read, or is damaged.
    """
    wanted = merge_ids([hash_ids(pa.array(list(ids), pa.string()))])
    rows: dict[str, dict[str, Any]] = {}
    for part in read_index(layout, files, SHOWN):
        chosen = part.filter(pa.array(contains(wanted, hash_ids(part["item_id"]))))
        rows |= {row["item_id"]: row | {"tags": tags_of(row.get("tags"))} for row in chosen.to_pylist()}
    with ThreadPoolExecutor(THREADS) as pool:
        found = (rows[item_id] for item_id in ids if item_id in rows)
        return list(map_ahead(pool, partial(_pictured, files, allowlist, places), found, 2 * THREADS))


def _rank(row: dict[str, Any]) -> tuple[float, str]:
    quality = row["quality"]
    return (-1.0 if quality is None or math.isnan(quality) else quality, row["item_id"])


def _pictured(files: Files, allowlist: AllowList, places: Mapping[str, tuple[int, int]], row: dict[str, Any]) -> Entry:
    entry = Entry(row)
    photo, (colours, mask) = _photo(files, allowlist, entry), _cutout(files, entry)
    if mask is None and row["mask_uri"] is not None:
        mask = _mask(files, entry)
    if photo is not None and mask is not None and photo.shape[:2] != mask.shape:
        entry.notes.append("the photo has another size than the mask: it has changed since")
    try:
        entry.views = None if photo is None and mask is None else views(photo, colours, mask, places.get(row["item_id"]))
    except OUT_OF_MEANS as error:
        entry.notes.append(f"too large to be shown: {error}"[:SHORT])
    return entry


def _photo(files: Files, allowlist: AllowList, entry: Entry) -> Pixels | None:
    uri = entry.row["image_uri"]
    if uri is None:
        return None
    if not allowlist.allows(uri):
        entry.notes.append(f"photo not shown: {allowlist.refusal(uri)}"[:SHORT])
        return None
    limits = Limits()
    try:
        return decode(files.read(allowlist.real_path(uri), max_bytes=limits.max_bytes, timeout_s=limits.fetch_s), limits)
    except ItemError as error:
        entry.notes.append(f"photo not shown: {error}"[:SHORT])
        return None


def _cutout(files: Files, entry: Entry) -> tuple[Pixels | None, Mask | None]:
    if entry.row["cutout_uri"] is None:
        return None, None
    try:
        return decode_cutout(files.read(entry.row["cutout_uri"]))
    except ItemError as error:
        entry.notes.append(f"cutout not shown: {error}"[:SHORT])
        return None, None


def _mask(files: Files, entry: Entry) -> Mask | None:
    try:
        return decode_mask(files.read(entry.row["mask_uri"]))
    except ItemError as error:
        entry.notes.append(f"mask not shown: {error}"[:SHORT])
        return None
