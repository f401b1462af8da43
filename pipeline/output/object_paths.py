"""The paths of the objects that the rows of an index describe."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.layout import OUTPUTS
from pipeline.storage.object_names import collision_key

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


def with_keys(paths: pa.Table) -> pa.Table:
    """Append a column ``key`` (binary), which is equal for paths that a file system may not tell apart.

    Where case or the Unicode normal form is ignored, a folder has the spelling of the item that came first: the file
    ``cutouts/shelf/b.png`` is listed as ``cutouts/Shelf/b.png``.
    """
    texts = pa.chunked_array([chunk.view(pa.string()) for chunk in paths["path"].chunks], pa.string())
    keys = [chunk.view(pa.binary()) for chunk in pc.ascii_lower(texts).chunks]  # byte by byte, whatever the bytes are
    plain = pc.string_is_ascii(texts)
    if not pc.all(plain, min_count=0).as_py():
        found = pa.chunked_array(keys, pa.binary()).to_pylist()
        for row in np.flatnonzero(~plain.to_numpy()).tolist():
            found[row] = collision_key(found[row].decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        keys = [pa.array(found, pa.binary())]
    return paths.append_column("key", pa.chunked_array(keys, pa.binary()))
