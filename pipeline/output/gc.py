"""Remove what crashes and changed images leave behind (``matteline gc``)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.concurrency import Each, in_this_process
from pipeline.log import PassProgress
from pipeline.output.buckets import Buckets, bucket_count, differences
from pipeline.output.index import read_index
from pipeline.output.lease import Lease
from pipeline.output.listing import HIDDEN, KeySample, list_objects
from pipeline.output.object_paths import PATHS, object_paths, with_keys
from pipeline.output.output import Output
from pipeline.output.segments import COLUMNS as SEGMENT_COLUMNS
from pipeline.output.segments import segment_paths
from pipeline.output.settings import object_folders, read_settings
from pipeline.storage.files import LEFTOVER

KINDS = {
    "object": "a mask, cutout, rendition or segments without a row: its task crashed, its item failed, or it was removed",
    "part": "an index part whose rows were replaced",
    "temporary": "a partial file of a process that was killed while it wrote",
}

THREADS = 16
"""Files that are deleted at the same time."""

DELETIONS = 1024
"""Files that are deleted between two checks of the lease."""

MIN_AGE_S = 3600.0
"""Default minimum age of garbage."""


@dataclass
class GcReport:
    """Garbage by kind (``KINDS``). It was removed unless the run was a dry run."""

    files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))


def collect_garbage(
    output: Output,
    run_id: str,
    *,
    delete: bool,
    min_age_s: float = MIN_AGE_S,
    now: float | None = None,
    each: Each = in_this_process,
) -> GcReport:
    """Find the garbage of an output, and remove it with ``delete``. Holds the lease meanwhile, so no run is disturbed.

    Files younger than ``min_age_s`` stay, since the workers of a killed run may live on for a while and still commit. So do
    files of unknown age. Ages are measured by the storage's own times. ``now`` (seconds since 1970) is for tests. ``each``
    lists the files, here or on other machines.

    Raises:
        LeaseHeld: A run is active in the output.
        StorageError: An object cannot be listed, read or removed.
    """
    report = GcReport()
    with (
        Lease(output, run_id) as lease,
        ThreadPoolExecutor(THREADS) as pool,
        TemporaryDirectory(prefix="matteline-") as scratch,
    ):
        latest = (lease.stored_at() if now is None else now) - min_age_s
        known, sample = _indexed_objects(output, Path(scratch))
        with PassProgress("listing files", sample.count) as progress:
            candidates = _candidates(output, progress.of_rows(list_objects(output, [""], sample, each)))
            for extra, _ in differences(known, candidates, Path(scratch, "listed")):
                lease.check()
                if not extra.num_rows:
                    continue
                old = extra.filter(pc.and_(pc.greater(extra["modified"], 0), pc.less_equal(extra["modified"], latest)))
                for number, kind in enumerate(KINDS):
                    sizes = old["size"].filter(pc.equal(old["kind"], number))
                    report.files[kind] += len(sizes)
                    report.bytes[kind] += pc.sum(sizes).as_py() or 0
                for start in range(0, old.num_rows if delete else 0, DELETIONS):
                    lease.check()
                    uris = [output.layout.uri(os.fsdecode(path)) for path in old["path"].slice(start, DELETIONS).to_pylist()]
                    list(pool.map(output.files.delete, uris))
    return report


def delete_superseded(output: Output, *, before: float) -> None:
    """Delete index parts that were replaced before a time of the storage's clock (seconds since 1970).

    Raises:
        StorageError: A part cannot be listed or deleted.
    """
    for part in list(output.files.list(output.layout.superseded, suffixes=(".parquet",))):
        if 0 < part.modified <= before:
            output.files.delete(part.uri)


def _indexed_objects(output: Output, folder: Path) -> tuple[Buckets, KeySample]:
    parts = list(output.parts())
    known, sample = Buckets(folder / "indexed", "key", bucket_count(parts)), KeySample()
    with PassProgress("reading index parts", len(parts)) as progress:
        for part in read_index(output, list(dict.fromkeys([*PATHS, *SEGMENT_COLUMNS]))):
            paths = object_paths(part).select(["path"])
            sample.add(paths["path"])
            segments = pa.table({"path": pa.array([path.encode() for path in segment_paths(part)], pa.binary())})
            known.add(with_keys(pa.concat_tables([paths, segments])).select(["key"]))
            progress.add(1)
    return known, sample


def _candidates(output: Output, listed: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the listed files that are garbage unless they are in the index, with the number of their ``kind``."""
    superseded = output.layout.superseded.removeprefix(f"{output.folder}/")
    objects = [*object_folders(read_settings(output)), "segments"]
    folders = [[f"{folder}/" for folder in objects], [f"{superseded}/"]]
    for table in listed:
        paths = table["path"]
        is_hidden = pc.match_substring_regex(paths, HIDDEN).to_numpy()
        kinds = np.full(table.num_rows, -1, np.int8)
        for number, prefixes in enumerate(folders):
            for prefix in prefixes:
                kinds[pc.starts_with(paths, prefix).to_numpy() & ~is_hidden] = number
        kinds[pc.match_substring_regex(paths, LEFTOVER).to_numpy()] = 2
        yield with_keys(table.append_column("kind", pa.array(kinds)).filter(pa.array(kinds >= 0)))
