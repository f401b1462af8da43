"""Ray's way to a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.manifest.id_set import IdSet
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.tables import Fragment
from pipeline.run.stages.skip_done import skip_done
from pipeline.storage.files import Files


class ManifestSource(Datasource):
    """One read task a fragment, with the reader that the driver's scan used.

    Items that are done are dropped here, before the rows are cut into blocks: a manifest that has grown by one item must
    make one task of it.
    """

    def __init__(self, manifest: Manifest, done: IdSet, todo: int, files: Files) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manifest, self.files, self.rows = manifest, files, todo
        self.done = ray.put(done)  # 16 bytes an item, once for all tasks

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes, roughly: ids and URIs."""
        return 200 * self.rows

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Fragments are independent; how many items a later task gets is decided by the repartition after the read."""
        each = max(1, self.rows // max(1, len(self.manifest.fragments)))
        known = BlockMetadata(num_rows=each, size_bytes=200 * each, input_files=None, exec_stats=None)
        bare = replace(self.manifest, fragments=())  # a reader needs its own fragment only; all of them can be large
        return [ReadTask(_Reader(bare, fragment, self.files, self.done), known) for fragment in self.manifest.fragments]


@dataclass(frozen=True)
class _Reader:
    manifest: Manifest
    fragment: Fragment
    files: Files
    done: ray.ObjectRef[IdSet]

    def __call__(self) -> Iterator[pa.Table]:
        done: IdSet = ray.get(self.done)
        for items in read(self.manifest, self.fragment, self.files):
            yield skip_done(items, done=done)
