"""Read which ground truth the rows of a manifest name, and which photos they belong to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.manifest.items import resolve_all
from pipeline.manifest.manifest import Manifest
from pipeline.schema import MAX_DETAIL, carried_name


def check_truth(manifest: Manifest, truth: str, tags: str | None = None) -> None:
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


def truth_of(items: pa.Table, manifest: Manifest, truth: str) -> tuple[pa.Array, list[str | None]]:
    """Return the absolute URIs of the items' ground truth, null where it cannot be used, and the reasons."""
    written = pc.fill_null(items[carried_name(truth)].cast(pa.string()), "").combine_chunks()
    uris, errors = resolve_all(written, manifest.base)
    outside_roots = manifest.allowlist.outside(uris)
    for row in np.flatnonzero(outside_roots).tolist():
        errors[row] = manifest.allowlist.refusal(uris[row].as_py(), truth)
    uris = pc.if_else(pa.array(outside_roots), pa.scalar(None, pa.string()), uris)
    messages = [errors.get(row) for row in range(items.num_rows)]
    # The checks are those of images, so their messages begin with image_uri.
    return uris, [None if message is None else message.replace("image_uri", truth, 1)[:MAX_DETAIL] for message in messages]


def groups_of(items: pa.Table) -> pa.ChunkedArray:
    """Return the manifest's column ``group``. An item without a group is alone."""
    name = carried_name("group")
    if name not in items.column_names:
        return items["item_id"]
    return pc.coalesce(items[name].cast(pa.string()), items["item_id"])
