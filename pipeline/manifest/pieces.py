"""Cut tables into pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def pieces(table: pa.Table, row_bytes: npt.NDArray[np.int64], max_bytes: int) -> Iterator[pa.Table]:
    """Yield slices of a table, in order, of at most ``max_bytes`` each, or of one row that is larger.

    Args:
        table: N rows.
        row_bytes: (N,): bytes per row.
        max_bytes: Bytes of a piece.
    """
    ends = np.cumsum(row_bytes)
    start = 0
    while start < table.num_rows:
        used = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, used + max_bytes, side="right")))
        yield table.slice(start, stop - start)
        start = stop
