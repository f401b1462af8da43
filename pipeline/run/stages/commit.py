"""Write index rows as an index part. From then on the items are done."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.index import expectation_of, write_part
from pipeline.run.context import StageContext
from pipeline.run.metrics import ITEMS, QUALITY, SECONDS
from pipeline.schema import STATUSES

NAMED_ITEMS = 20
"""Failed items per error code that a part names for the run's log."""

NO_FRAMES: dict[str, Any] = {"frames": 0, "video": "", "video_frames": 0, "video_left": 0}
"""What a part says about a video: frames that were written since the part before, its item, its frames, estimated until it is
finished (0: unknown), and how many of them are left."""


def commit_batch(rows: pa.Table, *, context: StageContext) -> pa.Table:
    """Write one index part and return one row about it.

    The row has the part's URI, counts by status, the expectation of ok items that are not good, the model's seconds, failures
    by error code with some of their items, and the facts of ``NO_FRAMES``. The objects of the rows exist already, so a
    part never names a missing object.
    """
    start = time.perf_counter()
    part = write_part(context.output, rows)
    SECONDS.observe([time.perf_counter() - start], stage="commit")
    counts = {status: pc.sum(pc.equal(rows["status"], status)).as_py() or 0 for status in STATUSES}
    failures: dict[str, dict[str, Any]] = {}
    for row in rows.filter(pc.equal(rows["status"], "failed")).select(["item_id", "error_code", "error_detail"]).to_pylist():
        first = {"count": 0, "item_id": row["item_id"], "detail": row["error_detail"], "named": []}
        entry = failures.setdefault(row["error_code"], first)
        entry["count"] += 1
        if len(entry["named"]) < NAMED_ITEMS:
            entry["named"].append((row["item_id"], row["error_detail"]))
    _measure(rows, counts, failures)
    model_s = pc.sum(pc.struct_field(rows["seconds"], "segment")).as_py() or 0.0
    expected = {f"expected_{name}": value for name, value in asdict(expectation_of(rows)).items()}
    summary = {"part": part, **counts, **expected, "model_s": model_s, "failures": json.dumps(failures), **NO_FRAMES}
    return pa.table({name: [value] for name, value in summary.items()})


def nothing_committed(model_s: float = 0.0, progress: Mapping[str, Any] = NO_FRAMES) -> pa.Table:
    """Return the row about work of the model, or on a video, that has committed no item. ``progress`` is as ``NO_FRAMES``."""
    counts = dict.fromkeys((*STATUSES, "expected_items"), 0)
    row = {"part": "", **counts, "expected_mean": 0.0, "expected_variance": 0.0, "model_s": model_s, "failures": "{}"}
    return pa.table({name: [value] for name, value in {**row, **progress}.items()})


def _measure(rows: pa.Table, counts: Mapping[str, int], failures: Mapping[str, Mapping[str, Any]]) -> None:
    for status in ("ok", "review"):
        ITEMS.add(counts[status], status=status, code="")
    for code, entry in failures.items():
        ITEMS.add(entry["count"], status="failed", code=code)
    QUALITY.observe(rows["quality"].to_pylist())
