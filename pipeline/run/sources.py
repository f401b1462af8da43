"""The sources of the Ray Data graphs: a manifest's items to do, and an index's items that lack a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import ray
from ray.data import DataContext
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.config.recipe import Recipe
from pipeline.manifest.id_set import IdSet
from pipeline.manifest.manifest import Manifest
from pipeline.manifest.tables import Fragment
from pipeline.manifest.videos import Kind
from pipeline.output.output import Output
from pipeline.run.stages.read import Share, read_lacking, read_todo
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files

MANIFEST_ROW_BYTES, INDEX_ROW_BYTES = 200, 800
"""Roughly: ids and URIs; a row of the index."""


class ManifestSource(Datasource):
    """One read task per fragment, with the reader that the driver's scan used.

    Finished items are dropped here, before the rows are cut into blocks: a manifest that has grown by one item must make one
    task of it.
    """

    def __init__(
        self, manifest: Manifest, done: IdSet, todo: int, share: Share, files: Files, only: Kind | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.manifest, self.files, self.rows, self.share, self.only = manifest, files, todo, share, only
        self.done = ray.put(done)  # 16 bytes per item, stored once for all tasks

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the size of all rows in bytes, roughly."""
        return MANIFEST_ROW_BYTES * self.rows

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task per fragment. The repartition after the read decides how many items later tasks get."""
        rows = max(1, self.rows // max(1, len(self.manifest.fragments)))
        manifest = replace(self.manifest, fragments=())  # a reader needs its own fragment only; all of them can be large
        return [
            ReadTask(
                _TodoReader(manifest, fragment, self.files, self.done, self.share, self.only),
                _metadata(rows, MANIFEST_ROW_BYTES),
            )
            for fragment in self.manifest.fragments
        ]


@dataclass(frozen=True)
class _TodoReader:
    manifest: Manifest
    fragment: Fragment
    files: Files
    done: ray.ObjectRef[IdSet]
    share: Share
    only: Kind | None

    def __call__(self) -> Iterator[pa.Table]:
        return read_todo(self.manifest, self.fragment, ray.get(self.done), self.files, self.share, self.only)


class LackingItems(Datasource):
    """The index rows of items that lack something: one read task per part."""

    def __init__(self, output: Output, recipe: Recipe) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.output, self.recipe, self.parts = output, recipe, list(output.parts())

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the size of all rows in bytes, roughly."""
        return sum(part.size for part in self.parts) * 4

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """Return one task per part."""
        return [
            ReadTask(_LackingReader(self.output, self.recipe, part), _metadata(max(1, part.size // 200), INDEX_ROW_BYTES))
            for part in self.parts
        ]


@dataclass(frozen=True)
class _LackingReader:
    output: Output
    recipe: Recipe
    part: FileInfo

    def __call__(self) -> Iterator[pa.Table]:
        yield read_lacking(self.part, self.output, self.recipe)


def _metadata(rows: int, row_bytes: int) -> BlockMetadata:
    return BlockMetadata(num_rows=rows, size_bytes=row_bytes * rows, input_files=None, exec_stats=None)
