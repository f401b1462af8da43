"""Load the pictures of a page's items. A picture that cannot be shown is reported and is no error."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.imaging.decode import decode
from pipeline.imaging.png import RESOURCE_ERRORS
from pipeline.imaging.validate import decode_cutout, decode_mask, decode_picture
from pipeline.imaging.views import preview, views
from pipeline.manifest.id_set import contains, hash_ids, merge_ids
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.review.entries import MAX_CHARS
from pipeline.review.entry import Entry, Missing, Shown, read_picture
from pipeline.review.videos import load_video
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
from pipeline.types import Mask, Pixels

COLUMNS = (
    *("item_id", "quality", "image_uri", "box", "detected_box", "height", "width", "renditions"),
    *("signals", "mask_path", "cutout_path", "video_facts", "start_s"),
    *("detected_label", "detector_score", "models", "agreement"),
)
THREADS = 4
MAX_RENDITIONS = 12
"""Renditions of one item that are shown."""


@dataclass
class MissingPictures:
    """The missing pictures of one kind: the items, in the page's order, and the reason of the first one."""

    kind: str
    ids: list[str]
    reason: str

    def describe(self, names: int = 3) -> str:
        """Return the number, the first ids and the reason: ``2 photos (a, b): … cannot be read``."""
        more = f" and {len(self.ids) - names:,} more" if len(self.ids) > names else ""
        noun = self.kind if len(self.ids) == 1 else f"{self.kind}s" if self.kind in KINDS else f"of {self.kind}"
        return f"{len(self.ids):,} {noun} ({', '.join(self.ids[:names])}{more}): {self.reason}"


KINDS = ("photo", "mask", "cutout", "picture")
"""Kinds of missing pictures, beside the names of renditions."""


def load_entries(
    output: Output,
    allowlist: AllowList,
    ids: Collection[str],
    windows: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> list[Entry]:
    """Return these items with pictures, in the order of the ids.

    ``windows`` has the corner of the window to show at 1:1, by id; see ``views``.

    Raises:
        StorageError: A part of the index cannot be read, or is damaged.
    """
    wanted = merge_ids([hash_ids(pa.array(list(ids), pa.string()))])
    rows: dict[str, dict[str, Any]] = {}
    for part in read_index(output, COLUMNS):
        chosen = part.filter(pa.array(contains(wanted, hash_ids(part["item_id"]))))
        rows |= {row["item_id"]: row for row in chosen.to_pylist()}
    with ThreadPoolExecutor(THREADS) as pool:
        found = (rows[item_id] for item_id in ids if item_id in rows)
        return list(map_ahead(pool, partial(_load, output, allowlist, windows), found, 2 * THREADS))


def missing_pictures(entries: Sequence[Entry]) -> list[MissingPictures]:
    """Return the missing pictures by kind, the most frequent first."""
    found: dict[str, MissingPictures] = {}
    for entry in entries:
        for kind, reason in dict(entry.missing).items():
            found.setdefault(kind, MissingPictures(kind, [], reason)).ids.append(entry.row["item_id"])
    return sorted(found.values(), key=lambda one: (-len(one.ids), one.kind))


def _load(output: Output, allowlist: AllowList, windows: Mapping[str, tuple[int, int]], row: dict[str, Any]) -> Entry:
    entry = Entry(row)
    if row["video_facts"] is not None:
        load_video(output, allowlist, entry)
        return entry
    photo, (colours, mask) = _photo(output.files, allowlist, entry), _cutout(output, entry)
    if mask is None and row["mask_path"] is not None:
        mask = read_picture(entry, "mask", lambda: output.load(row["mask_path"], decode_mask))
    if photo is not None and mask is not None and photo.shape[:2] != mask.shape:
        entry.missing.append(Missing("photo", "it has changed since the run: its size differs from the mask's"))
    try:
        entry.views = None if photo is None and mask is None else views(photo, colours, mask, windows.get(row["item_id"]))
        entry.renditions = [_rendition(output, entry, one) for one in (row["renditions"] or [])[:MAX_RENDITIONS]]
    except RESOURCE_ERRORS as error:
        entry.missing.append(Missing("picture", f"too large to show: {error}"[:MAX_CHARS]))
    return entry


def _photo(files: Files, allowlist: AllowList, entry: Entry) -> Pixels | None:
    uri, limits = entry.row["image_uri"], Limits()
    if uri is None:
        return None
    if not allowlist.allows(uri):
        reason = f"{allowlist.refusal(uri)}"[:MAX_CHARS]
        entry.missing.append(Missing("photo", reason))
        return None
    return read_picture(
        entry,
        "photo",
        lambda: decode(files.read(allowlist.real_path(uri), max_bytes=limits.max_bytes, timeout_s=limits.fetch_s), limits),
    )


def _cutout(output: Output, entry: Entry) -> tuple[Pixels | None, Mask | None]:
    path = entry.row["cutout_path"]
    found = None if path is None else read_picture(entry, "cutout", lambda: output.load(path, decode_cutout))
    return found or (None, None)


def _rendition(output: Output, entry: Entry, made: Mapping[str, Any]) -> Shown:
    name, path = str(made["name"]), made["path"]
    shown = Shown(name, path, (made["note"] or "")[:MAX_CHARS], None)
    if path is None or path.endswith(".json"):
        return shown
    return shown._replace(picture=read_picture(entry, name, lambda: preview(*output.load(path, decode_picture))))
