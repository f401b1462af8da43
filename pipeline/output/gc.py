"""Remove what crashes and changed images leave behind (``matteline gc``)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.manifest.id_set import hash_ids, merge_ids
from pipeline.output.index import read_index
from pipeline.output.lease import Lease
from pipeline.output.output import Output
from pipeline.output.verify import PATHS, object_paths, orphans
from pipeline.storage.backend import FileInfo

KINDS = {
    "object": "a mask, cutout or rendition without a row: its task crashed, its item failed, or its rendition was removed",
    "part": "an index part whose rows were replaced",
    "temporary": "a partial file of a process that was killed while it wrote",
}

THREADS = 16
"""Files that are deleted at the same time."""

MIN_AGE_S = 3600.0
"""Default minimum age of garbage."""


@dataclass
class GcReport:
    """Garbage by kind (``KINDS``). It was removed unless the run was a dry run."""

    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


def collect_garbage(
    output: Output, run_id: str, *, delete: bool, min_age_s: float = MIN_AGE_S, now: float | None = None
) -> GcReport:
    """Find the garbage of an output, and remove it with ``delete``. Holds the lease meanwhile, so no run is disturbed.

    Files younger than ``min_age_s`` stay, since the workers of a killed run may live on for a while and still commit. So do
    files of unknown age. Ages are measured by the storage's own times. ``now`` (seconds since 1970) is for tests.

    Raises:
        LeaseHeld: A run is active in the output.
        StorageError: An object cannot be listed, read or removed.
    """
    report = GcReport()
    with Lease(output, run_id) as lease, ThreadPoolExecutor(THREADS) as pool:
        latest = (lease.stored_at() if now is None else now) - min_age_s
        for kind, candidates in _CANDIDATES.items():
            removals = []
            for info in candidates(output):
                lease.check()
                if not info.modified or info.modified > latest:
                    continue
                report.files[kind] += 1
                report.bytes[kind] += info.size
                if delete:
                    removals.append(pool.submit(output.files.delete, info.uri))
                    if len(removals) >= 64 * THREADS:
                        removals.pop(0).result()
            for removal in removals:
                removal.result()
    return report


def _orphaned_objects(output: Output) -> Iterator[FileInfo]:
    known = merge_ids(hash_ids(paths) for part in read_index(output, PATHS) for paths in object_paths(part))
    return orphans(output, known)


def _superseded_parts(output: Output) -> Iterator[FileInfo]:
    return output.files.list(output.layout.superseded)


def _partial_files(output: Output) -> Iterator[FileInfo]:
    return output.files.leftovers(output.folder)


_CANDIDATES = {"object": _orphaned_objects, "part": _superseded_parts, "temporary": _partial_files}
