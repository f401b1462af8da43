"""Masks of videos that are worked on (``_matteline/masks``): kept so that a crash costs one segment, deleted with the last."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StorageError
from pipeline.log import log
from pipeline.manifest.id_set import IdSet, contains, hash_ids
from pipeline.output.index import read_index
from pipeline.output.output import Output


def forget(output: Output, item_id: str) -> None:
    """Delete the masks of a video that is done. Those that cannot be deleted are deleted by a later run."""
    _delete(output, output.layout.kept_masks(item_id))


def forget_done(output: Output, done: IdSet) -> None:
    """Delete masks that an interruption left of videos that are done.

    Those of failed ones stay, for another attempt. So do those of videos that are being replaced, whose rows are the old ones.

    Args:
        output: The output.
        done: Sorted ids of the items that need no work.

    Raises:
        StorageError: The index cannot be read, or the folder cannot be listed.
    """
    left = set(output.files.folders(output.layout.all_kept_masks))
    if not left:
        return
    for rows in read_index(output, ["item_id", "status"]):
        ids = rows["item_id"].filter(pc.not_equal(rows["status"], "failed"))
        ids = ids.filter(pa.array(contains(done, hash_ids(ids))))
        for folder in left & {output.layout.kept_masks(item_id) for item_id in ids.to_pylist()}:
            _delete(output, folder)


def _delete(output: Output, folder: str) -> None:
    try:
        for info in list(output.files.list(folder)):
            output.files.delete(info.uri)
    except StorageError as error:
        log.warning(f"{folder} cannot be deleted: {error}")
