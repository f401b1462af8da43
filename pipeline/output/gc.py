"""What crashes and changes leave behind, and nothing else: ``matteline gc``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.manifest.id_set import merge_ids
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.output.lease import Lease
from pipeline.output.verify import URIS, object_keys, orphans, uris
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files

KINDS = {
    "object": "a mask, cutout or rendition that no row names: its task died before its part, or its image has changed",
    "part": "an index part whose rows were replaced",
    "temporary": "a file that was being written when its process was killed",
}

AT_ONCE = 16

MIN_AGE_S = 3600.0


@dataclass
class GcReport:
    """What was found, and, unless it was a dry run, removed."""

    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


def sweep(
    layout: Layout, run_id: str, files: Files, *, delete: bool, min_age_s: float = MIN_AGE_S, now: float | None = None
) -> GcReport:
    """Find a recipe's garbage, and remove it if told to. Holds the recipe's lease meanwhile: no run is disturbed.

    Args:
        min_age_s: what is younger stays: a cluster's workers may outlive a killed run for a while, and still commit.
        now: seconds since 1970, for tests.

    Raises:
        LeaseHeld: a run is at work there.
        StorageError: something can't be listed, read or removed.
    """
    swept = GcReport()
    with Lease(layout, run_id, files) as lease, ThreadPoolExecutor(AT_ONCE) as pool:
        for kind, list_all in _LISTS.items():
            removals = []
            for info in list_all(layout, files):
                lease.check()
                if (time.time() if now is None else now) - info.modified < min_age_s:
                    continue
                swept.files[kind] += 1
                swept.bytes[kind] += info.size
                if delete:
                    removals.append(pool.submit(files.delete, info.uri))
                    if len(removals) >= 64 * AT_ONCE:
                        removals.pop(0).result()
            for removal in removals:
                removal.result()
    return swept


def _objects(layout: Layout, files: Files) -> Iterator[FileInfo]:
    known = merge_ids(object_keys(named) for part in read_index(layout, files, URIS) for named in uris(part))
    return orphans(layout, files, known)


def _parts(layout: Layout, files: Files) -> Iterator[FileInfo]:
    return files.list(layout.superseded)


def _rest(layout: Layout, files: Files) -> Iterator[FileInfo]:
    return files.leftovers(layout.folder)


_LISTS = {"object": _objects, "part": _parts, "temporary": _rest}
