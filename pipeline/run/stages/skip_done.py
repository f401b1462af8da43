"""Drop the items that the index of this recipe already has."""

from __future__ import annotations

import pyarrow as pa

from pipeline.manifest.id_set import Digests, contains, digest


def admit_batch(items: pa.Table, *, done: Digests) -> pa.Table:
    """The rows whose item isn't among the digests ``done`` (sorted)."""
    return items.filter(pa.array(~contains(done, digest(items["item_id"]))))
