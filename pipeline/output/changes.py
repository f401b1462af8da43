"""Find items whose manifest row or image has changed since they were processed (``--changed``)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.detector import Detector
from pipeline.config.job import Job
from pipeline.errors import ItemError, StorageError
from pipeline.log import log
from pipeline.manifest.id_set import IdSet, contains, hash_ids, merge_ids, sort_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.points import COLUMN as POINT
from pipeline.manifest.points import points_of
from pipeline.manifest.prompts import prompts_of
from pipeline.manifest.snapshot import NO_FILES, Snapshot
from pipeline.manifest.videos import PART_COLUMNS, VIDEO_COLUMN, are_videos
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.storage.uris import strip_signature

COLUMNS = [
    *("item_id", "image_uri", "box", "prompt", "image_sha256", "image_version", "status"),
    *(POINT, VIDEO_COLUMN, *PART_COLUMNS),
]
THREADS = 32
"""Images that are checked at the same time."""

_MAY_BE_SIGNED = "[?#@]|^[^:]*[A-Z][^:]*://"
"""Found in every URI that ``strip_signature`` would change."""


@dataclass(frozen=True)
class _Known:
    """The content of the index as sorted hashes of 16 bytes. Ten million rows take 800 MB."""

    ids: IdSet
    requests: IdSet
    """Hashes of id, URI, box or point, and names."""
    images: IdSet
    """Ids of items whose image was read, and may have changed since."""
    versions: IdSet
    """Hashes of id and version of the image."""
    sha256s: IdSet
    """Hashes of id and SHA-256 of the image."""


def changed(manifest: Manifest, output: Output, job: Job, *, failed_only: bool = False, ready: Snapshot = NO_FILES) -> IdSet:
    """Return the ids of the items in the index whose manifest row or image has changed.

    Rows are compared by URI, box, point and, with a detector, by the names that it looks for. Images are compared by version
    (ETag, or size and time) with one request per image; if the version differs or is unknown, the image is read and compared by
    hash. Images that cannot be read count as unchanged, and so do items whose image was never read (``--retry fetch``
    reprocesses those).

    Args:
        manifest: The manifest.
        output: Where the index is.
        job: Its limits and its error budget apply.
        failed_only: Look at failed items only. Any number of their images may be unreadable.
        ready: Files whose version was just listed, so that no request is needed for images that are the same as before.

    Raises:
        StorageError: The index cannot be read, or the share of unreadable images exceeds the error budget.
    """
    detector = job.recipe.detector
    known, found, checked, unreadable = _read_known(output, detector, failed_only, ready), [], 0, 0

    def version_of(uri: str) -> str:
        return output.files.version(manifest.allowlist.real_path(uri))

    def sha256_of(uri: str) -> str:
        return output.files.digest(manifest.allowlist.real_path(uri), max_bytes=job.limits.max_bytes)[0]

    with ThreadPoolExecutor(THREADS) as pool:
        for fragment in manifest.fragments:
            for items in read(manifest, fragment, output.files):
                ids, same = hash_ids(items["item_id"]), contains(known.requests, hash_requests(items, detector))
                found.append(ids[contains(known.ids, ids) & ~same])
                rows = items.select(["item_id", "image_uri"]).filter(pa.array(same & contains(known.images, ids)))
                checked += rows.num_rows
                for look_up, facts in ((version_of, known.versions), (sha256_of, known.sha256s)):
                    rows, failed = _look_up(look_up, rows, pool)
                    unreadable += failed
                    differs = ~contains(facts, _hash_pairs(rows["item_id"], rows["fact"]))
                    rows = rows.select(["item_id", "image_uri"]).filter(pa.array(differs))
                found.append(hash_ids(rows["item_id"]))
    if failed_only:
        return merge_ids(found)
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


def _look_up(step: Callable[[str], str], rows: pa.Table, pool: ThreadPoolExecutor) -> tuple[pa.Table, int]:
    """Return the rows whose image can be read, with what ``step`` says about it as ``fact``, and the number of the others."""

    def fact_of(uri: str) -> str | None:
        try:
            return step(uri)
        except (ItemError, StorageError):
            return None

    facts = pa.array(pool.map(fact_of, rows["image_uri"].to_pylist()), pa.string())
    return rows.append_column("fact", facts).filter(facts.is_valid()), facts.null_count


def _read_known(output: Output, detector: Detector | None, failed_only: bool, ready: Snapshot) -> _Known:
    buffers = [bytearray() for _ in fields(_Known)]
    for part in read_index(output, COLUMNS):
        rows = part.filter(pc.equal(part["status"], "failed")) if failed_only else part
        ids, versions, sha256s = rows["item_id"], rows["image_version"], rows["image_sha256"]
        has_version = pc.fill_null(pc.not_equal(versions, ""), False)  # unknown versions must not count as the same
        was_read = sha256s.is_valid()
        to_check = pc.and_not(was_read, pa.array(contains(ready, _hash_pairs(rows["image_uri"], versions))))
        pieces = (
            hash_ids(ids),
            _hash_requests(rows, None if detector is None else rows["prompt"]),
            hash_ids(ids.filter(to_check)),
            _hash_pairs(ids.filter(has_version), versions.filter(has_version)),
            _hash_pairs(ids.filter(was_read), sha256s.filter(was_read)),
        )
        for buffer, piece in zip(buffers, pieces, strict=True):
            buffer.extend(piece.tobytes())
    return _Known(*map(sort_ids, buffers))


def hash_requests(items: pa.Table, detector: Detector | None) -> IdSet:
    """Return a hash of what each item of a manifest asks for: id, URI, box or point, part of a video, names for a detector."""
    return _hash_requests(items, _prompts(items, detector))


def _prompts(items: pa.Table, detector: Detector | None) -> pa.ChunkedArray | None:
    """Return the names that a detector looks for, as in the index column ``prompt``; None without a detector."""
    if detector is None:
        return None
    names = [None if isinstance(one, ItemError) else list(one) or None for one in prompts_of(items, detector)]
    return pa.chunked_array([names], pa.list_(pa.string()))


def _hash_requests(rows: pa.Table, prompts: pa.ChunkedArray | None = None) -> IdSet:
    """Hash id, URI, box or point, the part of a video and, if there are any, names of each row."""
    boxes = pc.binary_join(rows["box"].cast(pa.list_(pa.string())), ",")
    if POINT in rows.column_names:
        points = [one and f"{one[0]!r},{one[1]!r}" for one in points_of(rows)]
        boxes = pc.coalesce(boxes, pa.chunked_array([points], pa.string()))
    names = () if prompts is None else (pc.binary_join(prompts, "\n"),)
    return _hash_pairs(rows["item_id"], _without_signatures(rows["image_uri"]), boxes, _parts(rows), *names)


def _parts(rows: pa.Table) -> pa.ChunkedArray:
    """Return a text about the part of each video; empty for a whole one, and for pictures."""
    empty = pa.chunked_array([[""] * rows.num_rows], pa.string())
    seconds = [rows[name].cast(pa.string()) if name in rows.column_names else empty for name in PART_COLUMNS]
    texts = pc.binary_join_element_wise(*seconds, "-", null_handling="replace", null_replacement="")
    is_part = pc.and_(pa.array(are_videos(rows)), pc.not_equal(texts, "-"))
    return pc.if_else(is_part, texts, "")


def _without_signatures(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return what ``strip_signature`` makes of each URI. Nulls stay."""
    if not pc.any(pc.match_substring_regex(uris, _MAY_BE_SIGNED)).as_py():
        return uris
    return pa.chunked_array([[uri and strip_signature(uri) for uri in uris.to_pylist()]], pa.string())


def _hash_pairs(*columns: pa.ChunkedArray) -> IdSet:
    """Hash the values of each row together."""
    return hash_ids(pc.binary_join_element_wise(*columns, "\0", null_handling="replace", null_replacement="null"))
