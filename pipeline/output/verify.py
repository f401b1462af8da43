"""Verify an output: one row per item, each object present and intact, no object without a row.

First the index is compared with itself, with the listing and with the manifest, in buckets of bounded size (``buckets``). Then
the objects are read (``read_objects``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.concurrency import Each, in_this_process
from pipeline.log import PassProgress
from pipeline.manifest.id_set import IdSet, hash_ids, merge_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.sample import Sample
from pipeline.output.buckets import Buckets, bucket_count, differences
from pipeline.output.findings import MAX_EXAMPLES, VerifyReport
from pipeline.output.identity import other_images
from pipeline.output.index import drop_rows, read_index, remove_unreadable_parts
from pipeline.output.layout import OUTPUTS
from pipeline.output.lease import Lease
from pipeline.output.listing import KeySample, list_objects, without_hidden
from pipeline.output.object_paths import PATHS, object_paths, with_keys
from pipeline.output.output import Output
from pipeline.output.read_objects import Reading, ReadVideo, read_objects
from pipeline.output.segments import check_segments
from pipeline.output.settings import object_folders, read_settings
from pipeline.storage.backend import FileInfo

COLUMNS = ("item_id", "status", "error_code", "quality", *PATHS)


def verify(
    output: Output,
    manifest: Manifest | None = None,
    *,
    sample: float = 1.0,
    threads: int = 16,
    seed: int = 0,
    each: Each = in_this_process,
    read_video: ReadVideo | None = None,
) -> VerifyReport:
    """Check the index against itself, its manifest (if given) and the storage. Changes nothing but its own progress.

    Args:
        output: The output.
        manifest: The items to expect.
        sample: Share of the rows whose objects are read. The objects of all rows are looked up in the listing.
        threads: Objects that a worker reads at the same time.
        seed: Chooses the sample.
        each: Lists and reads objects, here or on other machines.
        read_video: Reads videos back; None compares their bytes only.

    Raises:
        StorageError: The index or a listing cannot be read.
    """
    return _verify(Reading(output, sample, seed, threads, read_video), manifest, each)[0]


def repair(
    output: Output,
    run_id: str,
    manifest: Manifest | None = None,
    *,
    threads: int = 16,
    each: Each = in_this_process,
    read_video: ReadVideo | None = None,
) -> VerifyReport:
    """Verify all objects, and remove damaged items and unreadable parts from the index. The next run makes them again.

    Raises:
        LeaseHeld: A run is active in the output.
        StorageError: The storage cannot be read or written.
    """
    with Lease(output, run_id) as lease:
        unreadable = remove_unreadable_parts(output)
        report, damaged = _verify(Reading(output, 1.0, threads=threads, read_video=read_video), manifest, each)
        lease.check()
        report.repaired = drop_rows(output, damaged)
        for part in unreadable:
            report.add("unreadable", part)
        for note in list(output.files.list(output.layout.overwrites)):
            output.files.delete(note.uri)  # every object was read now, so nothing is left to check
    return report


def _verify(reading: Reading, manifest: Manifest | None, each: Each) -> tuple[VerifyReport, IdSet]:
    """Return the report, and the sorted ids of items whose objects are damaged or missing, or whose row is incoherent."""
    report, output = VerifyReport(), reading.output
    parts = list(output.parts())
    with TemporaryDirectory(prefix="matteline-") as scratch:
        folder = Path(scratch)
        rows = _read_rows(reading, parts, folder, report)
        _compare_objects(rows, output, folder, report, each)
        for ids in _duplicates(rows.ids):
            report.add_all("twice", ids)
        if manifest is not None:
            _compare_items(rows.ids, manifest, output, folder, report)
    damaged = read_objects(reading, parts, rows.sampled, report, each)
    return report, merge_ids([*rows.incoherent, damaged, check_segments(output, report)])


@dataclass
class _Rows:
    """The keys of an index."""

    objects: Buckets
    """``path``, its ``key`` (``with_keys``), and whether the object will be ``read``."""
    ids: Buckets
    """``item_id``."""
    paths: KeySample
    sampled: int
    """Rows whose objects will be read."""
    incoherent: list[IdSet]


def _read_rows(reading: Reading, parts: Sequence[FileInfo], folder: Path, report: VerifyReport) -> _Rows:
    """Check each row by itself, and collect the keys of all."""
    count = bucket_count(parts)
    rows = _Rows(Buckets(folder / "objects", "key", count), Buckets(folder / "ids", "item_id", count), KeySample(), 0, [])
    with PassProgress("reading index parts", len(parts)) as progress:
        for part in read_index(reading.output, COLUMNS):
            report.rows += part.num_rows
            objects, sampled = object_paths(part), reading.is_sampled(part["item_id"])
            rows.sampled += int(sampled.sum())
            rows.paths.add(objects["path"])
            read = pa.array(sampled[objects["row"].to_numpy()])
            rows.objects.add(with_keys(pa.table({"path": objects["path"], "read": read})))
            rows.ids.add(pa.table({"item_id": part["item_id"].cast(pa.binary())}))
            wrong = part.filter(pa.array(_is_incoherent(part, objects)))
            for row in wrong.slice(0, MAX_EXAMPLES).to_pylist():
                report.add("incoherent", _describe(row))
            report.add("incoherent", count=max(0, wrong.num_rows - MAX_EXAMPLES))
            rows.incoherent.append(hash_ids(wrong["item_id"]))
            progress.add(1)
    return rows


def _is_incoherent(rows: pa.Table, objects: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows contradict themselves."""
    failed = pc.fill_null(pc.equal(rows["status"], "failed"), False).to_numpy()
    has_objects = np.bincount(objects["row"].to_numpy(), minlength=rows.num_rows) > 0
    wrong = (failed != rows["error_code"].is_valid().to_numpy()) | (failed == has_objects)
    wrong |= failed != rows["quality"].is_null().to_numpy()
    renditions = rows["renditions"].combine_chunks()
    path, note = (pc.struct_field(pc.list_flatten(renditions), name) for name in ("path", "note"))
    unexplained = pc.and_(pc.is_null(path), pc.equal(pc.fill_null(note, ""), ""))
    wrong[pc.list_parent_indices(renditions).filter(unexplained).to_numpy()] = True
    return np.asarray(wrong)


def _describe(row: dict[str, object]) -> str:
    names = [one for one in OUTPUTS if row[f"{one}_path"] is not None]
    renditions = row["renditions"] if isinstance(row["renditions"], list) else []
    names += [one["name"] for one in renditions]
    return f"{row['item_id']}: status {row['status']}, error {row['error_code']}, objects {names}"


def _compare_objects(rows: _Rows, output: Output, folder: Path, report: VerifyReport, each: Each) -> None:
    with PassProgress("listing objects", rows.paths.count) as progress:
        listed = list_objects(output, object_folders(read_settings(output)), rows.paths, each)
        found = map(with_keys, progress.of_rows(without_hidden(listed)))
        for extra, missing in differences(rows.objects, found, folder / "listed"):
            if extra.num_rows:
                report.add_all("orphan", extra["path"], f"{output.folder}/")
            if missing.num_rows:
                report.add_all("absent", missing.filter(pc.invert(missing["read"]))["path"])


def _duplicates(ids: Buckets) -> Iterator[pa.ChunkedArray]:
    for number in range(ids.count):
        tables = list(ids.read(number))
        if tables:
            counts = pc.value_counts(pa.concat_tables(tables)[ids.key])
            yield pa.chunked_array([counts.field("values").filter(pc.greater(counts.field("counts"), 1))])


def _compare_items(ids: Buckets, manifest: Manifest, output: Output, folder: Path, report: VerifyReport) -> None:
    sample = Sample()

    def items() -> Iterator[pa.Table]:
        for fragment in manifest.fragments:
            for table in read(manifest, fragment, output.files):
                sample.add(table, hash_ids(table["item_id"]))
                yield pa.table({"item_id": table["item_id"].cast(pa.binary())})

    with PassProgress("comparing items of the manifest", report.rows) as progress:
        for extra, missing in differences(ids, progress.of_rows(items()), folder / "items"):
            if extra.num_rows:
                report.add_all("missing", extra["item_id"])
            if missing.num_rows:
                report.add_all("unknown", pa.chunked_array([pc.unique(missing["item_id"])]))
    for request in other_images(sample.by_id(), manifest, output):
        report.add("other", request.item_id)
