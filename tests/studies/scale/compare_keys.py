"""Compare as many made-up keys as the first argument says with themselves, as ``gc`` and ``verify`` do; print JSON.

Run in a process of its own, so that its peak of memory is known.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.buckets import INDEX_BYTES, Buckets, differences

ROWS = 12_000
OBJECT_BYTES = 175
"""Bytes of an index per object: half of a row's."""


def tables(keys: int) -> Iterator[pa.Table]:
    """Yield keys as long as the paths of objects."""
    for first in range(0, keys, ROWS):
        numbers = pc.cast(pa.array(np.arange(first, min(keys, first + ROWS))), pa.string())
        paths = pc.binary_join_element_wise(
            "cutouts/shelf-", pc.utf8_slice_codeunits(numbers, 0, 2), "/item-", numbers, ".png", ""
        )
        yield pa.table({"path": pa.chunked_array([paths.cast(pa.binary())])})


def main() -> None:
    """Print seconds, peak and bytes on disk."""
    keys, start, extra, missing = int(sys.argv[1]), time.process_time(), 0, 0
    with TemporaryDirectory() as folder:
        known = Buckets(Path(folder, "known"), "path", 1 + keys * OBJECT_BYTES // INDEX_BYTES)
        for table in tables(keys):
            known.add(table)
        for one in differences(known, tables(keys), Path(folder, "found")):
            extra, missing = extra + one.extra.num_rows, missing + one.missing.num_rows
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*.arrows"))
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    peak = int(found[1]) / 1024 if found else 0.0
    seconds = time.process_time() - start
    print(json.dumps({"cpu_us": 1e6 * seconds / keys, "peak_mib": peak, "disk_bytes": disk / keys, "wrong": extra + missing}))


if __name__ == "__main__":
    main()
