"""Index rows to their metrics: read a mask and the true one, measure, forget the pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.errors import DecodeError, FetchError, ItemError, ItemRefused, MaskError, StorageError, TruthError
from pipeline.evaluate.schema import EVALUATION
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.imaging.validate import decode_mask
from pipeline.output.index import put
from pipeline.output.layout import Layout, part_name
from pipeline.quality.metrics import measure
from pipeline.quality.tags import tags
from pipeline.run.crash_ledger import CrashLedger, IsolatedBatch
from pipeline.run.stages.columns import DETAIL_CHARS, attempt, errors_of
from pipeline.run.stages.process import tune_process
from pipeline.storage.allowlist import AllowList, shortened
from pipeline.storage.files import Files
from pipeline.storage.uris import join, unsigned


@dataclass(frozen=True)
class Measuring:
    """What every row of an evaluation shares. Travels to the workers."""

    files: Files
    allowlist: AllowList
    limits: Limits
    threads: int
    hce: bool = False
    ledger: CrashLedger | None = None


def measure_batch(rows: pa.Table, *, measuring: Measuring) -> pa.Table:
    """Rows as ``truths.joined`` gives them, with the schema EVALUATION.

    A row without an error gets its metrics; what can't be read is its own row's error. One image's pixels are held at a time,
    and the bytes of a few.
    """
    tune_process()
    errors, facts = errors_of(rows), rows.to_pylist()
    attempts = IsolatedBatch(measuring.ledger, "measure", rows["item_id"].to_pylist(), measuring.limits.item_s)

    def fetch(row: int) -> tuple[bytes, bytes] | None:
        return attempt(errors, row, lambda: _read(facts[row], measuring))

    def one(row: int, files: tuple[bytes, bytes]) -> dict[str, Any] | None:
        return attempt(errors, row, lambda: attempts.one(row, lambda: _measured(facts[row], *files, measuring)))

    made = []
    with ThreadPoolExecutor(measuring.threads) as pool:
        for row, files in enumerate(map_ahead(pool, fetch, range(len(facts)), 2 * measuring.threads)):
            found = (files and one(row, files)) or {}
            made.append(facts[row] | found | _fate(facts[row], errors[row]) | {"truth_uri": _kept(facts[row]["truth_uri"])})
    attempts.over()
    return pa.Table.from_pylist(made, EVALUATION)


def write_rows(rows: pa.Table, *, layout: Layout, files: Files) -> pa.Table:
    """Publish some rows of an evaluation as a part named by its items; gives its URI.

    Raises:
        StorageError: it can't be written.
    """
    sink = io.BytesIO()
    pq.write_table(rows.cast(EVALUATION), sink, compression="zstd")
    uri = join(layout.evaluation, part_name(rows["item_id"].to_pylist()))
    put(uri, sink.getvalue(), files)
    return pa.table({"part": [uri]})


def read_rows(uri: str, files: Files, columns: Sequence[str] | None = None) -> pa.Table:
    """A part that ``write_rows`` has written, or some of its columns.

    Raises:
        StorageError: it can't be read, or is damaged.
    """
    try:
        rows = pq.read_table(pa.BufferReader(files.read(uri)), columns=columns and list(columns))
        return rows.cast(EVALUATION if columns is None else pa.schema([EVALUATION.field(name) for name in columns]))
    except (FetchError, pa.ArrowException, ValueError) as error:
        raise StorageError(f"the evaluation {uri} can't be read ({error}); run matteline evaluate again") from error


def _read(fact: dict[str, Any], measuring: Measuring) -> tuple[bytes, bytes]:
    """The files of the truth and the mask."""
    if fact["truth_fault"] is not None:
        raise TruthError(fact["truth_fault"])
    limits = measuring.limits
    try:
        place = measuring.allowlist.real_path(fact["truth_uri"])
        truth = measuring.files.read(place, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
    except (FetchError, ItemRefused) as error:
        raise TruthError(f"the truth can't be read: {error}") from error
    if fact["mask_uri"] is None:
        raise MaskError("the index names no mask; evaluate needs a recipe whose outputs have mask")
    try:
        return truth, measuring.files.read(fact["mask_uri"])
    except FetchError as error:
        raise MaskError(f"the mask can't be read: {error}; see matteline verify") from error


def _measured(fact: dict[str, Any], truth_file: bytes, mask_file: bytes, measuring: Measuring) -> dict[str, Any]:
    try:
        mask = decode_mask(mask_file)
    except DecodeError as error:
        raise MaskError(f"the mask {shortened(fact['mask_uri'])} can't be read: {error}; see matteline verify") from error
    named = f"the truth {shortened(fact['truth_uri'])}"
    try:
        truth = decode_ground_truth(truth_file, measuring.limits)
    except DecodeError as error:
        raise TruthError(f"{named} can't be used: {error}") from error
    if truth.shape != mask.shape:
        (height, width), (wanted_height, wanted_width) = truth.shape, mask.shape
        raise TruthError(
            f"{named} is {width} wide and {height} high, its image {wanted_width} and {wanted_height}; "
            "give the mask of the upright image, at its size"
        )
    found = measure(mask, truth, hce=measuring.hce)
    own = [tag for tag in fact["tags"] or [] if tag not in ("border", "thin")]
    return found.values | found.curves | {"tags": [*own, *tags(truth)]}


def _kept(uri: str | None) -> str | None:
    """Without what signs it, as the index keeps its URIs."""
    return None if uri is None else unsigned(uri)


def _fate(fact: dict[str, Any], error: ItemError | None) -> dict[str, Any]:
    if error is None or fact["error_code"] is not None:
        return {"error_code": fact["error_code"], "error_detail": fact["error_detail"]}
    return {"error_code": error.code, "error_detail": str(error)[:DETAIL_CHARS]}
