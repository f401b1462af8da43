"""Compute the metrics of index rows: read a mask and its ground truth, measure, discard the pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.errors import DecodeError, FetchError, ItemRefused, MaskError, StorageError, TruthError
from pipeline.evaluate.schema import EVALUATION
from pipeline.imaging.ground_truth import decode_ground_truth
from pipeline.imaging.validate import decode_mask
from pipeline.output.layout import REPAIR, part_name
from pipeline.output.output import Output
from pipeline.quality.calibration import AGREEMENT, DETECTOR_SCORE
from pipeline.quality.metrics import measure
from pipeline.quality.tags import tags
from pipeline.run.crash_ledger import CrashLedger, IsolatedBatch
from pipeline.run.stages.columns import attempt, errors_of, with_errors
from pipeline.run.stages.process import tune_process
from pipeline.run.work import Part
from pipeline.storage.allowlist import AllowList, display_uri
from pipeline.storage.files import Files
from pipeline.storage.uris import join, strip_signature


@dataclass(frozen=True)
class MeasureContext:
    """Settings and places that all rows of an evaluation share. It is sent to the workers."""

    output: Output
    allowlist: AllowList
    """Locations that ground truth may be read from."""
    limits: Limits
    threads: int
    """Threads per task that read files."""
    hce: bool = False
    ledger: CrashLedger | None = None
    """None: crashes are not isolated."""


def measure_batch(rows: pa.Table, *, context: MeasureContext) -> pa.Table:
    """Measure rows of ``ground_truth.join_index``, and return them with the schema EVALUATION.

    A row whose files cannot be read gets an error instead of metrics. The pixels of one image are in memory at a time, and the
    encoded files of a few.
    """
    tune_process()
    errors, items = errors_of(rows), rows.to_pylist()
    batch = IsolatedBatch(context.ledger, "measure", rows["item_id"].to_pylist(), context.limits.item_s)

    def read(row: int) -> tuple[bytes, bytes] | None:
        return attempt(errors, row, lambda: _read(items[row], context))

    def measure_one(row: int, files: tuple[bytes, bytes]) -> dict[str, Any] | None:
        return attempt(errors, row, lambda: batch.run_one(row, lambda: _measure(items[row], *files, context)))

    measured = []
    with ThreadPoolExecutor(context.threads) as pool:
        for row, files in enumerate(map_ahead(pool, read, range(len(items)), 2 * context.threads)):
            uri = items[row]["truth_uri"]
            metrics = (files and measure_one(row, files)) or {}
            measured.append(items[row] | metrics | {"truth_uri": uri and strip_signature(uri)})
    batch.finish()
    return with_errors(pa.Table.from_pylist(measured, EVALUATION), errors)


@dataclass(frozen=True)
class MeasureWork:
    """The work of a worker process (``run.work.Work``): measure blocks of rows and write each as a part."""

    context: MeasureContext

    def __call__(self, blocks: Iterator[pa.Table], ledger: CrashLedger, *, overlap: bool) -> Iterator[Part]:
        """Yield the URI of each part."""
        context = replace(self.context, ledger=ledger)
        for rows in blocks:
            part = write_rows(measure_batch(rows, context=context), output=context.output)
            yield Part(rows.num_rows, part.to_pylist()[0])


def write_rows(rows: pa.Table, *, output: Output) -> pa.Table:
    """Write rows of an evaluation as a part that is named by its items, and return its URI.

    Raises:
        StorageError: It cannot be written.
    """
    sink = io.BytesIO()
    pq.write_table(rows.cast(EVALUATION), sink, compression="zstd")
    uri = join(output.layout.evaluation, part_name(rows["item_id"].to_pylist()))
    output.write(uri, sink.getvalue())
    return pa.table({"part": [uri]})


def read_rows(uri: str, files: Files, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part, or some of its columns.

    Raises:
        StorageError: It cannot be read, or is damaged.
    """
    try:
        schema = EVALUATION if columns is None else pa.schema([EVALUATION.field(name) for name in columns])
        rows = pq.ParquetFile(pa.BufferReader(files.read(uri))).read(schema.names)  # those that there are
        for name in {DETECTOR_SCORE, AGREEMENT} & set(schema.names) - set(rows.schema.names):  # an older evaluation
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.float32()))
        return rows.select(schema.names).cast(schema)
    except (FetchError, pa.ArrowException, ValueError) as error:
        raise StorageError(f"the evaluation {uri} cannot be read ({error}); run matteline evaluate again") from error


def _read(item: dict[str, Any], context: MeasureContext) -> tuple[bytes, bytes]:
    """Read the files of the ground truth and of the mask."""
    if item["truth_error"] is not None:
        raise TruthError(item["truth_error"])
    limits = context.limits
    try:
        path = context.allowlist.real_path(item["truth_uri"])
        truth = context.output.files.read(path, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)
    except (FetchError, ItemRefused) as error:
        raise TruthError(f"the ground truth cannot be read: {error}") from error
    if item["mask_path"] is None:
        raise MaskError("the index has no mask_path; run the job again with mask in recipe.outputs")
    try:
        return truth, context.output.load(item["mask_path"], bytes)
    except FetchError as error:
        raise MaskError(f"the mask cannot be read: {error}") from error


def _measure(item: dict[str, Any], truth_file: bytes, mask_file: bytes, context: MeasureContext) -> dict[str, Any]:
    """Return the metrics, the curves and the tags of one item."""
    try:
        mask = decode_mask(mask_file)
    except DecodeError as error:
        raise MaskError(f"the mask {item['mask_path']} cannot be read: {error}; {REPAIR}") from error
    subject = f"the ground truth {display_uri(item['truth_uri'])}"
    try:
        truth = decode_ground_truth(truth_file, context.limits)
    except DecodeError as error:
        raise TruthError(f"{subject} cannot be used: {error}") from error
    if truth.shape != mask.shape:
        sizes = [f"{width} x {height}" for height, width in (truth.shape, mask.shape)]
        raise TruthError(
            f"{subject} is {sizes[0]} pixels, its image {sizes[1]}; give the mask of the upright image, at its size"
        )
    measured = measure(mask, truth, hce=context.hce)
    own_tags = [tag for tag in item["tags"] or [] if tag not in ("border", "thin")]
    return measured.values | measured.curves | {"tags": [*own_tags, *tags(truth)]}
