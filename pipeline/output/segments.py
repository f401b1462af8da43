"""Check the table of segments: one part per video of several segments, which is written before the video's index row."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.concurrency import map_ahead
from pipeline.errors import FetchError
from pipeline.manifest.id_set import IdSet, hash_ids
from pipeline.output.findings import VerifyReport
from pipeline.output.index import read_index
from pipeline.output.layout import part_name
from pipeline.output.output import Output
from pipeline.storage.errors import library_errors
from pipeline.storage.uris import name, redact

COLUMNS = ("item_id", "run_id", "video_facts")

THREADS = 16
"""Parts that are read at the same time."""


def segment_paths(rows: pa.Table) -> dict[str, tuple[str, str | None]]:
    """Return, for the videos among rows with the columns ``COLUMNS``, the path of their segments, with item and run.

    A video of a single segment has no such file.
    """
    videos = rows.filter(pc.is_valid(rows["video_facts"])).select(["item_id", "run_id"])
    return {f"segments/{part_name([row['item_id']])}": (row["item_id"], row["run_id"]) for row in videos.to_pylist()}


def check_segments(output: Output, report: VerifyReport) -> IdSet:
    """Read all parts of the table, and compare them with the index. Add what is found to the report.

    Returns:
        The hashes of the ids of items whose segments are damaged, unsorted.

    Raises:
        StorageError: The index cannot be read, or the table cannot be listed.
    """
    found = {f"segments/{name(part.uri)}" for part in output.files.list(output.layout.segments, suffixes=(".parquet",))}
    damaged: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in read_index(output, COLUMNS) if found else ():
            known = {path: item for path, item in segment_paths(rows).items() if path in found}
            found -= known.keys()
            errors = map_ahead(pool, lambda one: _error(output, *one), known.items(), 2 * THREADS)
            for (item_id, _), error in zip(known.values(), errors, strict=True):
                if error:
                    report.add("segments", f"{item_id}: {error}")
                    damaged.append(item_id)
    report.add("orphan", *(output.layout.uri(path) for path in sorted(found)), count=len(found))
    return hash_ids(pa.array(damaged, pa.string()))


def _error(output: Output, path: str, item: tuple[str, str | None]) -> str:
    """Return what is wrong with the segments of an item; "" if nothing is."""
    try:
        rows = pq.read_table(io.BytesIO(output.read(path)), columns=["item_id", "run_id"], page_checksum_verification=True)
    except FetchError as error:
        return str(error)
    except (pa.ArrowException, *library_errors(), OverflowError):
        return f"{redact(output.layout.uri(path))} is damaged"
    owners = set(zip(*(rows[column].to_pylist() for column in ("item_id", "run_id")), strict=True))
    return "" if owners == {item} else f"{path} is of another item or run than the row"
