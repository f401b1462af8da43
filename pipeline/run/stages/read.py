"""Read the rows that a run works on: manifest rows that are not done, and index rows of items that lack a file."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.config.recipe import Recipe
from pipeline.manifest.id_set import IdSet, contains, hash_ids, shares
from pipeline.manifest.manifest import Manifest, read
from pipeline.manifest.tables import Fragment
from pipeline.manifest.videos import Kind, are_videos
from pipeline.output.derived import lacking
from pipeline.output.index import read_part
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files

Share = tuple[int, int]
"""Number and count of shares into which items are divided by the hash of their ids."""

ALL: Share = (0, 1)


def read_todo(
    manifest: Manifest, fragment: Fragment, done: IdSet, files: Files, share: Share = ALL, only: Kind | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a fragment whose item is in the share, of the kind ``only``, and not in the sorted set ``done``."""
    number, count = share
    for items in read(manifest, fragment, files):
        ids = hash_ids(items["item_id"])
        todo = ~contains(done, ids)
        if only is not None:
            todo &= are_videos(items) == (only == "videos")
        yield items.filter(pa.array(todo & (shares(ids, count) == number) if count > 1 else todo))


def read_lacking(part: FileInfo, output: Output, recipe: Recipe) -> pa.Table:
    """Return the rows of an index part whose items lack an output or rendition of the recipe."""
    rows = read_part(part, output.files, None)
    return rows.filter(pa.array(lacking(rows, recipe)))
