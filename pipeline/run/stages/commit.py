"""Index rows to an index part: the moment an item is done."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.index import write_part
from pipeline.output.layout import Layout
from pipeline.run.metrics import ITEMS, QUALITY, SECONDS
from pipeline.storage.files import Files

STATUSES = ("ok", "review", "failed")

NAMED_ITEMS = 20
"""Failed items of an error code that a part names for the run's log."""


def commit_batch(rows: pa.Table, *, layout: Layout, files: Files) -> pa.Table:
    """Write one index part and give one row about it.

    It has the part's name, counts by status, the model's seconds, and failures by code with some of them named.

    The objects of these rows exist already, so a part never names what isn't there.
    """
    start = time.perf_counter()
    part = write_part(layout, rows, files)
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
    told = {"part": part, **counts, "model_s": model_s, "failures": json.dumps(failures)}
    return pa.table({name: [value] for name, value in told.items()})


def _measure(rows: pa.Table, counts: Mapping[str, int], failures: Mapping[str, Mapping[str, Any]]) -> None:
    for status in ("ok", "review"):
        ITEMS.add(counts[status], status=status, code="")
    for code, entry in failures.items():
        ITEMS.add(entry["count"], status="failed", code=code)
    QUALITY.observe(rows["quality"].to_pylist())
