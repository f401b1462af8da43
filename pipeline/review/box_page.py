"""The page of a manifest with boxes, as ``matteline detect`` writes it: photos with boxes, the least certain ones first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.errors import ConfigError, FetchError, ItemError, ItemRefused, StorageError
from pipeline.imaging.decode import decode_preview
from pipeline.imaging.png import RESOURCE_ERRORS
from pipeline.imaging.views import LARGE_PX, preview
from pipeline.review.content import page_head
from pipeline.review.entries import MAX_CHARS, MAX_LISTED, cell_text
from pipeline.review.entry import Entry, Missing
from pipeline.review.html import data_uri, render
from pipeline.review.pages import Page
from pipeline.review.pictures import THREADS, missing_pictures
from pipeline.storage import uris
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.types import Box

COLUMNS = ("item_id", "image_uri", "box", "box_score", "box_label")

KINDS = (
    ("box", (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_null), "lists of four numbers"),
    ("box_score", (types.is_floating, types.is_integer, types.is_null), "numbers"),
)
"""Types of columns that are computed with, and what the columns hold."""


def boxes_page(uri: str, files: Files, items: int, allow_roots: Sequence[str] = ()) -> Page:
    """Return the page: the boxes of the lowest scores with their photos, then the list of the others.

    Args:
        uri: Absolute path or URI of the Parquet file.
        files: Access to storage.
        items: Number of boxes with photos.
        allow_roots: Roots from which photos may be read, beside the file's folder and those of the settings.

    Raises:
        ConfigError: It has not the columns of ``matteline detect``, or they have other types.
        StorageError: It cannot be read.
    """
    rows, total = _read(uri, files)
    storage = files.storage.model_copy(update={"allow_roots": (*files.storage.allow_roots, *allow_roots)})
    look = partial(_look, files, AllowList.of(storage, uris.parent(uri)))
    with ThreadPoolExecutor(THREADS) as pool:
        looked = list(map_ahead(pool, look, iter(rows[:items]), 2 * THREADS))
    missing = missing_pictures([entry for entry, _ in looked])
    lines = [f"{total:,} boxes. The {len(looked):,} of the lowest scores have photos." if total else "There are no boxes."]
    lines += [f"{len(rows):,} of them are listed."] if len(rows) < total else []
    facts = page_head(
        uris.name(uris.redact(uri)),
        uris.redact(uri),
        about=[["Boxes", uris.redact(uri)]],
        lines=lines,
        missing=[one.describe() for one in missing],
        missing_rows=[number for number, (entry, _) in enumerate(looked) if entry.missing],
        columns=["score"],
        views=(("Photo", "photo", "box"),),
    )
    return Page(render(facts, _columns(rows), (picture for _, picture in looked)), len(looked), missing)


def _read(uri: str, files: Files) -> tuple[list[dict[str, Any]], int]:
    """Return the rows with a box, by rising score, at most ``MAX_LISTED``, and the number of all of them."""
    total = 0

    def rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
        nonlocal total
        for batch in file.iter_batches(columns=list(COLUMNS)):
            batch.validate(full=True)  # texts may be no UTF-8, which is found nowhere else
            for row in batch.to_pylist():
                if row["box"] is not None:
                    total += 1
                    yield row

    try:
        file = pq.ParquetFile(pa.BufferReader(files.read(uri)))
        if lacking := [name for name in COLUMNS if name not in file.schema_arrow.names]:
            raise ConfigError(
                f"{uris.redact(uri)} has no column {lacking[0]}; give a run's output, or a file that matteline detect wrote"
            )
        for name, kinds, wanted in KINDS:
            kind = file.schema_arrow.field(name).type
            if not any(is_one(kind) for is_one in kinds):
                raise ConfigError(f"{uris.redact(uri)}: the column {name} has the type {kind}; store {wanted} in it")
        return heapq.nsmallest(MAX_LISTED, rows(file), key=_rank), total
    except FetchError as error:
        raise StorageError(str(error)) from error
    except (pa.ArrowException, OSError) as error:
        raise StorageError(f"{uris.redact(uri)} is not a Parquet file, or is damaged") from error


def _rank(row: dict[str, Any]) -> tuple[float, str]:
    """Sort by score; boxes of the user, which have none, come last."""
    score = row["box_score"]
    return (score if isinstance(score, float | int) and math.isfinite(score) else math.inf, str(row["item_id"]))


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the rows column by column. Names of objects take the place of statuses: the page can be filtered by them."""
    empty, names = [""] * len(rows), [cell_text(row["box_label"]) or "no name" for row in rows]
    scores = ["" if row["box_score"] is None else f"{row['box_score']:.3f}" for row in rows]
    return {
        **{"item_id": [cell_text(row["item_id"]) for row in rows], "status": names, "quality": [None] * len(rows)},
        **{"reasons": [[] for _ in rows], "tags": [[] for _ in rows], "code": empty, "detail": empty},
        "shown": [scores],
    }


def _look(files: Files, allowlist: AllowList, row: dict[str, Any]) -> tuple[Entry, dict[str, Any]]:
    """Return the item and its photo for the page. A photo that cannot be shown is reported and is no error."""
    entry, uri, limits = Entry(row | {"item_id": cell_text(row["item_id"])}), str(row["image_uri"] or ""), Limits()
    content: dict[str, Any] = {"photo_uri": uris.redact(uri)[:MAX_CHARS], "signals": [], "files": {}, "renditions": []}
    try:
        if not allowlist.allows(uri):
            raise ItemRefused(allowlist.refusal(uri))
        data = files.read(allowlist.real_path(uri), max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
        photo, full = decode_preview(data, limits, LARGE_PX)
        box, shown = Box.parse(row["box"]), preview(photo, None)
        content |= {"box": [round(value, 2) for value in box], "full": [full.width, full.height], "found": True}
        content |= {"width": shown.width, "height": shown.height, "contour": "", "photo": data_uri(shown.data)}
    except (ItemError, *RESOURCE_ERRORS) as error:
        entry.missing.append(Missing("photo", str(error)[:MAX_CHARS]))
    content["missing"] = [list(one) for one in entry.missing]
    return entry, content
