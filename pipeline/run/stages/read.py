"""Read the manifest as a Ray Data source, without the items that are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.manifest.id_set import IdSet, contains, hash_ids
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.tables import Fragment
from pipeline.storage.files import Files

BYTES_PER_ROW = 200
"""Roughly, ids and URIs."""


def skip_done(items: pa.Table, done: IdSet) -> pa.Table:
    """Return the rows whose item is not in the sorted set ``done``."""
    return items.filter(pa.array(~contains(done, hash_ids(items["item_id"]))))


class ManifestSource(Datasource):
    """One read task per fragment, with the reader that the driver's scan used.

    Finished items are dropped here, before the rows are cut into blocks: a manifest that has grown by one item must make one
    task of it.
    """

    def __init__(self, manifest: Manifest, done: IdSet, todo: int, files: Files) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manifest, self.files, self.rows = manifest, files, todo
        self.done = ray.put(done)  # 16 bytes per item, stored once for all tasks

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the size of all rows in bytes, roughly."""
        return BYTES_PER_ROW * self.rows

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task per fragment. The repartition after the read decides how many items later tasks get."""
        rows = max(1, self.rows // max(1, len(self.manifest.fragments)))
        metadata = BlockMetadata(num_rows=rows, size_bytes=BYTES_PER_ROW * rows, input_files=None, exec_stats=None)
        manifest = replace(self.manifest, fragments=())  # a reader needs its own fragment only; all of them can be large
        return [ReadTask(_Reader(manifest, fragment, self.files, self.done), metadata) for fragment in self.manifest.fragments]


@dataclass(frozen=True)
class _Reader:
    manifest: Manifest
    fragment: Fragment
    files: Files
    done: ray.ObjectRef[IdSet]

    def __call__(self) -> Iterator[pa.Table]:
        done: IdSet = ray.get(self.done)
        for items in read(self.manifest, self.fragment, self.files):
            yield skip_done(items, done)
