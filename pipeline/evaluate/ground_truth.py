"""The manifest's true masks, beside the index's rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, ItemsMissing
from pipeline.evaluate.schema import FACTS
from pipeline.manifest.items import resolve_all
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.tags import tags_of
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.schema import carried_name
from pipeline.storage.files import Files


def check_columns(manifest: Manifest, truth: str, tags: str | None) -> None:
    """Refuse before work.

    Args:
        tags: None where no column was asked for.

    Raises:
        ConfigError: the manifest has no such columns, or they hold something else than text.
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
    """One row an item: ``item_id``, ``truth_uri`` (absolute, null where it can't be used), ``truth_fault`` (why), ``group`` and
    ``tags``.

    Text alone, some 200 bytes an item, is held in memory.
    """
    parts = [
        _truths_of(items, manifest, truth, tags) for fragment in manifest.fragments for items in read(manifest, fragment, files)
    ]
    return pa.concat_tables(parts)


def joined(truths: pa.Table, layout: Layout, files: Files) -> pa.Table:
    """The truths with the index's facts about the same items.

    Raises:
        ItemsMissing: an item has no row in the index.
        StorageError: the index can't be read.
    """
    parts = [part.select(FACTS) for part in read_index(layout, files, FACTS)]
    index = pa.concat_tables(parts, promote_options="permissive")  # older rows may have fewer signals
    places = pc.index_in(truths["item_id"], value_set=index["item_id"].combine_chunks())
    if places.null_count:
        raise ItemsMissing(f"{places.null_count} items have no row in {layout.index}; run the same command again")
    facts = index.take(places)
    for name in ("truth_uri", "truth_fault", "group", "tags"):
        facts = facts.append_column(name, truths[name])
    return facts.combine_chunks()


def _truths_of(items: pa.Table, manifest: Manifest, truth: str, tags: str | None) -> pa.Table:
    written = pc.fill_null(items[carried_name(truth)].cast(pa.string()), "").combine_chunks()
    places, faults = resolve_all(written, manifest.base)
    outside_roots = manifest.allowlist.outside(places)
    for row in np.flatnonzero(outside_roots).tolist():
        faults[row] = manifest.allowlist.refusal(places[row].as_py(), truth)
    places = pc.if_else(pa.array(outside_roots), pa.scalar(None, pa.string()), places)
    details = [faults.get(row) for row in range(items.num_rows)]
    # The rule is that of images, and so are its sentences' first words.
    named = [None if fault is None else fault.replace("image_uri", truth, 1)[:500] for fault in details]
    cells = [[]] * items.num_rows if tags is None else [tags_of(cell) for cell in items[carried_name(tags)].to_pylist()]
    return pa.table(
        {
            "item_id": items["item_id"],
            "truth_uri": places,
            "truth_fault": pa.array(named, pa.string()),
            "group": _groups_of(items),
            "tags": pa.array(cells, pa.list_(pa.string())),
        }
    )


def _groups_of(items: pa.Table) -> pa.ChunkedArray:
    """The manifest's own column of that name; an item without one is a group of its own."""
    name = carried_name("group")
    if name not in items.column_names:
        return items["item_id"]
    return pc.coalesce(items[name].cast(pa.string()), items["item_id"])
