"""Which items' sources are others than when their rows were made: asked for with ``--changed``."""

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
from pipeline.output.layout import Layout
from pipeline.storage.files import Files
from pipeline.storage.uris import unsigned

COLUMNS = ["item_id", "image_uri", "box", "image_sha256", "image_version"]
AT_ONCE = 32
"""Images that are asked about at the same time."""


@dataclass(frozen=True)
class _Known:
    """What the index says of its items, as sorted digests of 16 bytes: ten million rows take 800 MB."""

    ids: IdSet
    requests: IdSet
    """Of id, URI and box together."""
    images: IdSet
    """Of the ids whose image was had."""
    versions: IdSet
    """Of id and version of the image."""
    hashes: IdSet
    """Of id and SHA-256 of the image."""


def changed(manifest: Manifest, layout: Layout, files: Files, job: Job) -> IdSet:
    """The sorted digests of the items in the index whose manifest row, or whose image, is another now.

    A row is compared by URI and box. An image is compared by its version (ETag, or size and time), one question an image;
    where that differs, or there is none, it is read and compared by its hash. What can't be read is left as it is, and so
    are items whose image was never had (``--retry fetch`` does those again).

    Raises:
        StorageError: the index can't be read, or of the images more can't be asked about than the error budget allows.
    """
    known, found, asked, mute = _read_known(layout, files), [], 0, 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for fragment in manifest.fragments:
            for items in read(manifest, fragment, files):
                rows = items.filter(pa.array(contains(known.ids, hash_ids(items["item_id"]))))
                same = pa.array(contains(known.requests, _requests(rows)))
                found.append(hash_ids(rows.filter(pc.invert(same))["item_id"]))
                had = pa.array(contains(known.images, hash_ids(rows["item_id"])))
                kept = rows.filter(pc.and_(same, had)).select(["item_id", "image_uri"]).to_pylist()
                reviews = list(pool.map(lambda row: _is_other(row, known, manifest, files, job.limits.max_bytes), kept))
                asked, mute = asked + len(reviews), mute + reviews.count(None)
                others = [row["item_id"] for row, is_other in zip(kept, reviews, strict=True) if is_other]
                found.append(hash_ids(pa.array(others, pa.string())))
    if asked and mute / asked > job.budget.max_failed_share:
        raise StorageError(
            f"{mute} of {asked} images can't be asked whether they have changed; see that they can be reached and read, "
            "or leave out --changed"
        )
    if mute:
        log.warning(
            f"{mute} images can't be asked whether they have changed: left as they are", extra={"facts": {"images": mute}}
        )
    return merge_ids(found)


def _read_known(layout: Layout, files: Files) -> _Known:
    pieces: tuple[list[IdSet], ...] = ([], [], [], [], [])
    ids, requests, images, versions, hashes = pieces
    for rows in read_index(layout, files, COLUMNS):
        ids.append(hash_ids(rows["item_id"]))
        requests.append(_requests(rows))
        for column, into in (("image_version", versions), ("image_sha256", hashes)):
            valid = rows.filter(pc.is_valid(rows[column]))
            into.append(_paired(valid["item_id"].to_pylist(), valid[column].to_pylist()))
        images.append(hash_ids(rows.filter(pc.is_valid(rows["image_sha256"]))["item_id"]))
    return _Known(*(merge_ids(piece) for piece in pieces))


def _requests(rows: pa.Table) -> IdSet:
    def texts() -> Iterator[str]:
        for row in rows.select(["item_id", "image_uri", "box"]).to_pylist():
            uri = row["image_uri"] and unsigned(row["image_uri"])
            yield f"{row['item_id']}\0{uri}\0{row['box']}"

    return hash_ids(pa.array(texts(), pa.string()))


def _paired(ids: list[str], facts: list[str]) -> IdSet:
    return hash_ids(pa.array((f"{item_id}\0{fact}" for item_id, fact in zip(ids, facts, strict=True)), pa.string()))


def _is_other(row: dict[str, Any], known: _Known, manifest: Manifest, files: Files, max_bytes: int) -> bool | None:
    """None where it can't be told."""
    item_id = row["item_id"]
    try:
        uri = manifest.allowlist.real_path(row["image_uri"])
        version = files.version(uri)
        if version and contains(known.versions, _paired([item_id], [version]))[0]:
            return False
        sha256 = hashlib.sha256(files.read(uri, max_bytes=max_bytes)).hexdigest()
        return not contains(known.hashes, _paired([item_id], [sha256]))[0]
    except (ItemError, StorageError):
        return None
