"""Index rows to an index part: the moment an item is done."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.files import Files
from pipeline.storage.index import write_part
from pipeline.storage.layout import Layout

STATUSES = ("ok", "review", "failed")


def commit_batch(rows: pa.Table, *, layout: Layout, files: Files) -> pa.Table:
    """Write one index part and give one row about it: its name, counts by status, failures by code with an example.

    The objects of these rows exist already, so a part never names what isn't there.
    """
    part = write_part(layout, rows, files)
    counts = {status: pc.sum(pc.equal(rows["status"], status)).as_py() or 0 for status in STATUSES}
    failures: dict[str, dict[str, str | int]] = {}
    for row in rows.filter(pc.equal(rows["status"], "failed")).select(["item_id", "error_code", "error_detail"]).to_pylist():
        entry = failures.setdefault(row["error_code"], {"count": 0, "item_id": row["item_id"], "detail": row["error_detail"]})
        entry["count"] = int(entry["count"]) + 1
    return pa.table(
        {"part": [part], **{status: [count] for status, count in counts.items()}, "failures": [json.dumps(failures)]}
    )
