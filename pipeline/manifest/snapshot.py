"""Remember which files were there in which version, to see which have come, grown or changed since (``--watch``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice

import numpy as np

from pipeline.manifest.id_set import CHUNK, IdSet, contains, merge_ids
from pipeline.storage.backend import FileInfo

Snapshot = IdSet
"""One hash per file, of its URI and its version: 16 bytes per file. Sorted."""

NO_FILES: Snapshot = merge_ids(())


def take_snapshot(infos: Iterable[FileInfo]) -> Snapshot:
    """Return the snapshot of a listing."""
    return merge_ids(map(_hash_versions, _chunks(infos)))


def unchanged(before: Snapshot, now: Snapshot) -> Snapshot:
    """Return the files that have the same version in two snapshots."""
    return now[contains(before, now)]


def only_ready(infos: Iterable[FileInfo], ready: Snapshot | None) -> Iterator[FileInfo]:
    """Yield the files that have the same version in a snapshot; without one, all files."""
    if ready is None:
        yield from infos
        return
    for chunk in _chunks(infos):
        for info, is_ready in zip(chunk, contains(ready, _hash_versions(chunk)), strict=True):
            if is_ready:
                yield info


def _hash_versions(infos: Iterable[FileInfo]) -> IdSet:
    """Return what ``hash_ids`` returns for URI and version with a zero byte between them. See ``output.changes``."""
    texts = (f"{info.uri}\0{info.etag or f'{info.size} {info.modified}'}" for info in infos)
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="S16")


def _chunks(infos: Iterable[FileInfo]) -> Iterator[list[FileInfo]]:
    remaining = iter(infos)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
