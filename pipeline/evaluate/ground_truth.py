"""Read the manifest's ground truth and join it with the index."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ItemsMissing
from pipeline.evaluate.schema import INDEX_COLUMNS
from pipeline.manifest.ground_truth import groups_of, truth_of
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.tags import parse_tags
from pipeline.output.index import read_index
from pipeline.output.output import Output
from pipeline.schema import carried_name
from pipeline.storage.files import Files


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
    uris, messages = truth_of(items, manifest, truth)
    cells = [[]] * items.num_rows if tags is None else [parse_tags(cell) for cell in items[carried_name(tags)].to_pylist()]
    return pa.table(
        {
            "item_id": items["item_id"],
            "truth_uri": uris,
            "truth_error": pa.array(messages, pa.string()),
            "group": groups_of(items),
            "tags": pa.array(cells, pa.list_(pa.string())),
        }
    )
