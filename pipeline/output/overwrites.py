"""Replace objects whose names stay, so that a crash leaves no index row that contradicts its objects.

A name belongs to an item for good, so a new version of a photo or recipe overwrites the item's objects. The object is written
before its row. If the process dies in between, the index still describes the former object. Therefore:

1. Before a task overwrites an object, it writes a note with the item's id to ``overwrites/``: one request per task.
2. It writes the objects, then the rows are committed.
3. At the end of a pass, and at the start of every run, the holder of the lease checks all noted items. An item that one
   attempt of a run replaced, and that has a row of that run, is consistent. Of any other the objects are read, and a row that
   does not match them is removed from the index, so that the item is processed again. Then the notes are deleted.

Objects of items without a row are created only if they do not exist, which needs no note and no further request.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.concurrency import map_ahead
from pipeline.config.sections import Stored, parse
from pipeline.errors import FetchError, StorageError
from pipeline.manifest.id_set import IdSet, contains, duplicate_ids, hash_ids, merge_ids
from pipeline.output.index import drop_rows, ids_of_run, read_index
from pipeline.output.layout import OUTPUTS
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo
from pipeline.storage.uris import join

THREADS = 16
"""Items whose objects are read at the same time."""

AHEAD = 16 * THREADS
"""Notes that are read or deleted ahead. A run that replaces ten million items leaves 160,000 of them."""

COLUMNS = ("item_id", *(f"{output}_{fact}" for output in OUTPUTS for fact in ("path", "sha256")), "renditions", "video_facts")


class Note(Stored):
    """Items of a task whose objects may be overwritten."""

    run_id: str
    complete: bool
    item_ids: list[str]


def note_overwrites(output: Output, run_id: str, item_ids: Sequence[str], *, complete: bool) -> None:
    """Note that the objects of these items may be overwritten from now on.

    Args:
        output: Where the objects are.
        run_id: The run that overwrites them.
        item_ids: The items.
        complete: Whether the task notes every item that it writes, so that a single note stands for a single attempt.

    Raises:
        StorageError: The note cannot be written.
    """
    uri = join(output.layout.overwrites, f"{run_id}-{secrets.token_hex(8)}.json")
    note = Note(run_id=run_id, complete=complete, item_ids=list(item_ids))
    output.write(uri, note.model_dump_json().encode())


def check_overwrites(output: Output) -> int:
    """Remove rows that contradict their objects, and delete the notes. Only the holder of the lease may call this.

    Returns:
        The number of items that must be processed again.

    Raises:
        StorageError: A note, the index or an object cannot be read or written.
    """
    notes = list(output.files.list(output.layout.overwrites, suffixes=(".json",)))
    if not notes:
        return 0
    dropped = drop_rows(output, _mismatches(output, _suspects(output, notes)))
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in map_ahead(pool, lambda note: output.files.delete(note.uri), notes, AHEAD):
            pass
    return dropped


def _suspects(output: Output, notes: Iterable[FileInfo]) -> IdSet:
    """Return the ids of items whose objects must be compared with their rows, sorted."""
    noted: list[IdSet] = []
    suspects: list[IdSet] = []
    by_run: dict[str, list[IdSet]] = {}
    for note in _read_notes(output, notes):
        ids = hash_ids(pa.array(note.item_ids, pa.string()))
        noted.append(ids)
        (by_run.setdefault(note.run_id, []) if note.complete else suspects).append(ids)
    suspects.append(duplicate_ids(merge_ids(noted)))
    for run_id, pieces in by_run.items():
        ids = merge_ids(pieces)
        suspects.append(ids[~contains(ids_of_run(output, run_id), ids)])
    return merge_ids(suspects)


def _read_notes(output: Output, notes: Iterable[FileInfo]) -> Iterator[Note]:
    def read(info: FileInfo) -> Note:
        try:
            return parse(Note, output.files.read(info.uri))
        except (FetchError, ValueError) as error:
            raise StorageError(
                f"{info.uri} cannot be read ({error}); run matteline verify --repair, which reads all objects instead"
            ) from error

    with ThreadPoolExecutor(THREADS) as pool:
        yield from map_ahead(pool, read, notes, AHEAD)


def _mismatches(output: Output, suspects: IdSet) -> IdSet:
    """Return the ids whose objects differ from their rows, sorted."""
    found: list[str] = []
    if len(suspects):
        with ThreadPoolExecutor(THREADS) as pool:
            for part in read_index(output, COLUMNS):
                rows = part.filter(pa.array(contains(suspects, hash_ids(part["item_id"])))).to_pylist()
                matches = list(pool.map(lambda row: _matches(output, row), rows))
                found += [row["item_id"] for row, is_same in zip(rows, matches, strict=True) if not is_same]
    return np.sort(hash_ids(pa.array(found, pa.string())))


def _matches(output: Output, row: dict[str, Any]) -> bool:
    """Return whether all objects of a row exist with its hashes."""
    expected = [(row[f"{one}_path"], row[f"{one}_sha256"]) for one in OUTPUTS]
    files = (row["video_facts"] or {}).get("files") or ()
    expected += [(one["path"], one["sha256"]) for one in (*(row["renditions"] or ()), *files)]
    try:
        return all(output.digest(path)[0] == sha256 for path, sha256 in expected if path)
    except FetchError:
        return False
