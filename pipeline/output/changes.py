"""Find items whose manifest row or image has changed since they were processed (``--changed``)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.job import Job
from pipeline.errors import ItemError, StorageError
from pipeline.log import log
from pipeline.manifest.id_set import IdSet, contains, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage.files import Files
from pipeline.storage.uris import strip_signature

COLUMNS = ["item_id", "image_uri", "box", "image_sha256", "image_version"]
THREADS = 32
"""Images that are checked at the same time."""


@dataclass(frozen=True)
class _Known:
    """The content of the index as sorted hashes of 16 bytes. Ten million rows take 800 MB."""

    ids: IdSet
    requests: IdSet
    """Hashes of id, URI and box."""
    images: IdSet
    """Ids of items whose image was read."""
    versions: IdSet
    """Hashes of id and version of the image."""
    sha256s: IdSet
    """Hashes of id and SHA-256 of the image."""


def changed(manifest: Manifest, output: Output, job: Job) -> IdSet:
    """Return the ids of the items in the index whose manifest row or image has changed.

    Rows are compared by URI and box. Images are compared by version (ETag, or size and time) with one request per image; if the
    version differs or is unknown, the image is read and compared by hash. Images that cannot be read count as unchanged, and
    so do items whose image was never read (``--retry fetch`` reprocesses those).

    Raises:
        StorageError: The index cannot be read, or the share of unreadable images exceeds the error budget.
    """
    known, found, checked, unreadable = _read_known(output), [], 0, 0
    with ThreadPoolExecutor(THREADS) as pool:
        for fragment in manifest.fragments:
            for items in read(manifest, fragment, output.files):
                rows = items.filter(pa.array(contains(known.ids, hash_ids(items["item_id"]))))
                same = pa.array(contains(known.requests, _requests(rows)))
                found.append(hash_ids(rows.filter(pc.invert(same))["item_id"]))
                was_read = pa.array(contains(known.images, hash_ids(rows["item_id"])))
                kept = rows.filter(pc.and_(same, was_read)).select(["item_id", "image_uri"]).to_pylist()
                results = list(
                    pool.map(lambda row: _has_changed(row, known, manifest, output.files, job.limits.max_bytes), kept)
                )
                checked, unreadable = checked + len(results), unreadable + results.count(None)
                ids = [row["item_id"] for row, has_changed in zip(kept, results, strict=True) if has_changed]
                found.append(hash_ids(pa.array(ids, pa.string())))
    if checked and unreadable / checked > job.budget.max_failed_share:
        raise StorageError(
            f"{unreadable} of {checked} images cannot be checked for changes; make them readable, or omit --changed"
        )
    if unreadable:
        log.warning(
            f"{unreadable} images cannot be checked for changes and count as unchanged",
            extra={"facts": {"images": unreadable}},
        )
    return merge_ids(found)


def _read_known(output: Output) -> _Known:
    pieces: tuple[list[IdSet], ...] = ([], [], [], [], [])
    ids, requests, images, versions, sha256s = pieces
    for rows in read_index(output, COLUMNS):
        ids.append(hash_ids(rows["item_id"]))
        requests.append(_requests(rows))
        for column, hashes in (("image_version", versions), ("image_sha256", sha256s)):
            valid = rows.filter(pc.is_valid(rows[column]))
            hashes.append(_hash_pairs(valid["item_id"].to_pylist(), valid[column].to_pylist()))
        images.append(hash_ids(rows.filter(pc.is_valid(rows["image_sha256"]))["item_id"]))
    return _Known(*(merge_ids(piece) for piece in pieces))


def _requests(rows: pa.Table) -> IdSet:
    def texts() -> Iterator[str]:
        for row in rows.select(["item_id", "image_uri", "box"]).to_pylist():
            uri = row["image_uri"] and strip_signature(row["image_uri"])
            yield f"{row['item_id']}\0{uri}\0{row['box']}"

    return hash_ids(pa.array(texts(), pa.string()))


def _hash_pairs(ids: list[str], facts: list[str]) -> IdSet:
    return hash_ids(pa.array((f"{item_id}\0{fact}" for item_id, fact in zip(ids, facts, strict=True)), pa.string()))


def _has_changed(row: dict[str, Any], known: _Known, manifest: Manifest, files: Files, max_bytes: int) -> bool | None:
    """Return None if the image cannot be read."""
    item_id = row["item_id"]
    try:
        uri = manifest.allowlist.real_path(row["image_uri"])
        version = files.version(uri)
        if version and contains(known.versions, _hash_pairs([item_id], [version]))[0]:
            return False
        sha256 = hashlib.sha256(files.read(uri, max_bytes=max_bytes)).hexdigest()
        return not contains(known.sha256s, _hash_pairs([item_id], [sha256]))[0]
    except (ItemError, StorageError):
        return None
