"""Passes over a synthetic index, each in a process of its own, so that its peak of memory is its own.

``python index_passes.py STEP FOLDER ROWS`` prints what one step took. The steps are run in the order of ``STEPS``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config.job import load_job
from pipeline.manifest.id_set import hash_ids, merge_ids
from pipeline.manifest.manifest import open_manifest, scan
from pipeline.manifest.names import NameTemplate
from pipeline.output import index
from pipeline.output.changes import changed
from pipeline.output.compaction import compact
from pipeline.output.output import Output
from pipeline.output.reconcile import reconcile
from pipeline.schema import INDEX
from pipeline.storage.files import Files

ITEMS = int(os.environ.get("ITEMS") or 1_000_000)

PART_ROWS = 256
"""Rows of an index part of a large run with ``budget.judged_after=1000``."""

CHUNK = 256 * PART_ROWS
RECIPE = "0" * 64
IMAGE, VERSION = "s3://catalog/photos/shelf/photo.jpg", "0123456789abcdef0123456789abcdef"
FIRST, SECOND = "20260101T000000.000Z-aaaaaa", "20260102T000000.000Z-bbbbbb"


def write_manifest(folder: Path, rows: int) -> None:
    """Write a manifest in which all items name one image."""
    with pq.ParquetWriter(folder / "manifest.parquet", pa.schema({"item_id": pa.string(), "image_uri": pa.string()})) as writer:
        for start in range(0, rows, CHUNK):
            ids = ids_of(start, min(rows, start + CHUNK))
            uris = pa.repeat(IMAGE, len(ids))
            writer.write_table(pa.table({"item_id": ids, "image_uri": uris}))


def write_rows(folder: Path, rows: int, *, every: int, run_id: str) -> None:
    """Write a row of every ``every``-th item, in parts as small as those of a run."""
    output = output_in(folder)
    for start in range(0, rows, CHUNK):
        table = rows_of(ids_of(start, min(rows, start + CHUNK))[::every])
        facts = {"image_version": VERSION, "image_uri": IMAGE, "run_id": run_id}
        for column, value in facts.items():
            table = table.set_column(table.column_names.index(column), INDEX.field(column), pa.repeat(value, table.num_rows))
        for first in range(0, table.num_rows, PART_ROWS):
            index.write_part(output, table.slice(first, PART_ROWS))


def rows_of(ids: pa.Array) -> pa.Table:
    """Return index rows about as large as real ones: paths, hashes and floats that do not compress."""
    rng, count = np.random.default_rng(len(ids)), len(ids)

    def sha256s() -> pa.Array:
        return pa.array(np.frombuffer(rng.bytes(32 * count).hex().encode(), "S64").astype(str))

    columns: dict[str, Any] = {"item_id": ids, "output_name": ids}
    for output in ("mask", "cutout"):
        columns[f"{output}_path"] = pc.binary_join_element_wise(f"{output}s/", ids, ".png", "")
        columns[f"{output}_bytes"], columns[f"{output}_sha256"] = pa.array(rng.integers(1 << 20, size=count)), sha256s()
    constants = {"status": "ok", "recipe": RECIPE, "model": "fake", "worker": "host/1", "quality_calibrated": True}
    columns |= {name: pa.repeat(value, count) for name, value in constants.items()}
    columns |= {"image_sha256": sha256s(), "quality": pa.array(rng.random(count, np.float32))}
    columns["finished_at"] = pa.array(np.arange(count), pa.int64())
    arrays = [columns[field.name].cast(field.type) if field.name in columns else pa.nulls(count, field.type) for field in INDEX]
    return pa.table(arrays, schema=INDEX)


def ids_of(first: int, last: int) -> pa.Array:
    """Return the ids of these items."""
    return pa.array([f"photos/shelf/item-{number:08}.jpg" for number in range(first, last)], pa.string())


def output_in(folder: Path) -> Output:
    """Return the output of the passes."""
    return Output.at(str(folder / "out"), Files())


def _manifest(folder: Path) -> Any:
    roots = ["storage.allow_roots=[s3://catalog]"]
    job = load_job(manifest=str(folder / "manifest.parquet"), output=str(folder / "out"), overrides=roots)
    return job, open_manifest(job.manifest, Files(job.storage), NameTemplate(job.output.name))


def _scan(folder: Path, rows: int) -> Callable[[], bool]:
    return lambda: len(scan(_manifest(folder)[1], Files()).ids) == rows


def _done_ids(folder: Path, rows: int) -> Callable[[], bool]:
    return lambda: len(index.done_ids(output_in(folder), RECIPE)[0]) == rows


def _tally(folder: Path, rows: int) -> Callable[[], bool]:
    ids = merge_ids(hash_ids(ids_of(start, min(rows, start + CHUNK))) for start in range(0, rows, CHUNK))
    return lambda: index.tally(output_in(folder), ids) == {"ok": rows, "missing": 0}


def _compact(folder: Path, _rows: int) -> Callable[[], bool]:
    return lambda: compact(output_in(folder)) > 0


def _changed(folder: Path, _rows: int) -> Callable[[], bool]:
    """Prepare ``--changed`` of all items. The store answers at once: requests are another measurement."""
    job, manifest = _manifest(folder)
    setattr(Files, "version", lambda *_: VERSION)  # noqa: B010
    return lambda: len(changed(manifest, output_in(folder), job)) == 0


def _reconcile(folder: Path, rows: int) -> Callable[[], bool]:
    return lambda: reconcile(output_in(folder)) == -(-rows // 2)


def _write(folder: Path, rows: int) -> Callable[[], bool]:
    write_manifest(folder, rows)
    write_rows(folder, rows, every=1, run_id=FIRST)
    return lambda: True


def _redo(folder: Path, rows: int) -> Callable[[], bool]:
    write_rows(folder, rows, every=2, run_id=SECOND)
    return lambda: True


STEPS: dict[str, Callable[[Path, int], Callable[[], bool]]] = {
    "write": _write,
    "scan": _scan,
    "done ids, small parts": _done_ids,
    "compaction": _compact,
    "done ids": _done_ids,
    "tally": _tally,
    "--changed": _changed,
    "redo": _redo,
    "reconcile, half redone": _reconcile,
}
"""Each prepares itself and returns what is measured; that returns whether its result is right."""


def main(step: str, folder: str, rows: str) -> None:
    """Run one step and print what it took as JSON: seconds, seconds of the processor, and MiB."""
    work = STEPS[step](Path(folder), int(rows))
    before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
    is_right = work()
    took = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "mib": peak_mib() - before}
    print(json.dumps(took | {"right": is_right}))


def peak_mib() -> float:
    """Return the peak of this process's resident memory. (``getrusage`` would include the parent's before the exec.)"""
    return int(Path("/proc/self/status").read_text(encoding="ascii").partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
