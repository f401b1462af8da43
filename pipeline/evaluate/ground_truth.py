"""Read the manifest's ground truth and join it with the index."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, ItemsMissing
from pipeline.evaluate.schema import INDEX_COLUMNS
from pipeline.manifest.items import resolve_all
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.tags import parse_tags
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.schema import MAX_DETAIL, carried_name
from pipeline.storage.files import Files


def check_columns(manifest: Manifest, truth: str, tags: str | None) -> None:
    """Check the manifest's columns of ground truth and, unless None, of tags.

    Raises:
        ConfigError: A column does not exist, or the ground truth is not text.
    """
    carried = manifest.carried
    listed = ", ".join(carried.names[:8]) or "none besides those of every manifest"
    for column, option in ((truth, "--truth"), (tags, "--tags")):
        if column is not None and carried_name(column) not in carried.names:
            raise ConfigError(f"the manifest has no column {column!r}; {option} names one of its further columns: {listed}")
    kind = carried.field(carried_name(truth)).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ConfigError(f"the manifest's column {truth!r} holds {kind}; it must hold text: paths or URIs of masks")


def read_ground_truth(manifest: Manifest, files: Files, truth: str, tags: str | None) -> pa.Table:
    """Return one row per item, some 200 bytes each.

    Returns:
        ``item_id``, ``truth_uri`` (absolute, null if it cannot be used), ``truth_error`` (why), ``group`` and ``tags``.
    """
    return pa.concat_tables(
        _ground_truth_of(items, manifest, truth, tags)
        for fragment in manifest.fragments
        for items in read(manifest, fragment, files)
    )


def join_index(truth: pa.Table, output: Output) -> pa.Table:
    """Return the ground truth with the index columns of the same items.

    Raises:
        ItemsMissing: An item has no row in the index.
        StorageError: The index cannot be read.
    """
    parts = [part.select(INDEX_COLUMNS) for part in read_index(output, INDEX_COLUMNS)]
    index = pa.concat_tables(parts, promote_options="permissive")  # older rows may have fewer signals
    places = pc.index_in(truth["item_id"], value_set=index["item_id"].combine_chunks())
    if places.null_count:
        raise ItemsMissing(f"{places.null_count} items have no row in {output.layout.index}; run the same command again")
    rows = index.take(places)
    for name in ("truth_uri", "truth_error", "group", "tags"):
        rows = rows.append_column(name, truth[name])
    return rows.combine_chunks()


def _ground_truth_of(items: pa.Table, manifest: Manifest, truth: str, tags: str | None) -> pa.Table:
    written = pc.fill_null(items[carried_name(truth)].cast(pa.string()), "").combine_chunks()
    uris, errors = resolve_all(written, manifest.base)
    outside_roots = manifest.allowlist.outside(uris)
    for row in np.flatnonzero(outside_roots).tolist():
        errors[row] = manifest.allowlist.refusal(uris[row].as_py(), truth)
    uris = pc.if_else(pa.array(outside_roots), pa.scalar(None, pa.string()), uris)
    messages = [errors.get(row) for row in range(items.num_rows)]
    # The checks are those of images, so their messages begin with image_uri.
    messages = [None if message is None else message.replace("image_uri", truth, 1)[:MAX_DETAIL] for message in messages]
    cells = [[]] * items.num_rows if tags is None else [parse_tags(cell) for cell in items[carried_name(tags)].to_pylist()]
    return pa.table(
        {
            "item_id": items["item_id"],
            "truth_uri": uris,
            "truth_error": pa.array(messages, pa.string()),
            "group": _groups_of(items),
            "tags": pa.array(cells, pa.list_(pa.string())),
        }
    )


def _groups_of(items: pa.Table) -> pa.ChunkedArray:
    """Return the manifest's column ``group``. An item without a group is alone."""
    name = carried_name("group")
    if name not in items.column_names:
        return items["item_id"]
    return pc.coalesce(items[name].cast(pa.string()), items["item_id"])
