"""Drop the items that the index of this recipe already has."""

from __future__ import annotations

import pyarrow as pa

from pipeline.manifest.id_set import IdSet, contains, hash_ids


def skip_done(items: pa.Table, *, done: IdSet) -> pa.Table:
    """The rows whose item isn't among the digests ``done`` (sorted)."""
    return items.filter(pa.array(~contains(done, hash_ids(items["item_id"]))))
