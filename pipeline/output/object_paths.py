"""The paths of the objects that the rows of an index describe."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.layout import OUTPUTS

PATHS = (*(f"{output}_path" for output in OUTPUTS), "renditions", "video_facts")
"""Columns that name objects."""


def object_paths(rows: pa.Table) -> pa.Table:
    """Return the objects of rows that have the columns ``PATHS``: ``path`` (binary, UTF-8) and ``row`` (int64), its number."""
    renditions = rows["renditions"].combine_chunks()
    columns = [(rows[f"{output}_path"], np.arange(rows.num_rows)) for output in OUTPUTS]
    videos = pc.struct_field(rows["video_facts"].combine_chunks(), "files")
    for lists in (renditions, videos):
        columns.append((pc.struct_field(pc.list_flatten(lists), "path"), pc.list_parent_indices(lists)))
    found = [pa.table({"path": paths.cast(pa.binary()), "row": pa.array(numbers, pa.int64())}) for paths, numbers in columns]
    objects = pa.concat_tables(found)
    return objects.filter(objects["path"].is_valid())
