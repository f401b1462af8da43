"""Encode masks, cutouts and renditions, write them, and make the index rows."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.errors import ItemError, WriteError
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.png import RESOURCE_ERRORS, encode_cutout, encode_mask
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.trimap import trimap_of
from pipeline.output.layout import OUTPUTS
from pipeline.run.context import StageContext
from pipeline.run.crash_ledger import IsolatedBatch
from pipeline.run.metrics import SECONDS, WRITTEN
from pipeline.run.stages.columns import FailedBefore, attempt, errors_of, unpack, with_errors
from pipeline.run.stages.objects import note_replacements, write_output, write_rendition
from pipeline.run.stages.process import tune_process
from pipeline.schema import INDEX, index_schema
from pipeline.storage.uris import strip_signature
from pipeline.types import Mask, Pixels, Size

DETECTED = ("detected_box", "detected_label", "detector_score")
"""Columns of what a detector found."""

PIXELS = {"pixels", "mask"}
"""Columns that end here."""


Row = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, str | None]]


class Encoded(NamedTuple):
    """The files of one item."""

    outputs: dict[str, bytes]
    renditions: list[Rendered]


def write_batch(batch: pa.Table, *, context: StageContext) -> pa.Table:
    """Write the objects of a batch and return its index rows, without pixels."""
    tune_process()
    errors = errors_of(batch)
    facts = batch.drop_columns(PIXELS & set(batch.column_names)).to_pylist()
    isolated = context.isolated("finish", batch["item_id"].to_pylist())
    note_replacements(context, [fact["item_id"] for fact, error in zip(facts, errors, strict=True) if error is None])
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(context.job.compute.fetch_threads) as pool:
        # Encoding keeps this core busy while the pool waits for the store.
        encoded = [_encode_and_submit(batch, row, facts[row], errors, context, pool, isolated) for row in range(batch.num_rows)]
        for row, (finish_s, writes) in enumerate(encoded):
            objects = [attempt(errors, row, write.result) or {"write_s": 0.0} for write in writes]
            write_s = sum(one.pop("write_s") for one in objects)
            renditions = [one.pop("rendition") for one in objects if "rendition" in one] if context.recipe.renditions else None
            columns = {key: one[key] for one in objects for key in one}
            results.append({"finish_s": finish_s, "write_s": write_s, "renditions": renditions} | columns)
    isolated.finish()
    _measure(results, errors)
    outcomes = with_errors(batch, errors).select(["error_code", "error_detail"]).to_pylist()
    return index_table(batch, zip(facts, results, outcomes, strict=True), context)


def index_table(items: pa.Table, rows: Iterable[Row], context: StageContext) -> pa.Table:
    """Return the index rows of items.

    Args:
        items: The items, with the carried columns.
        rows: For each, what is known of it, what was written, and its ``error_code`` and ``error_detail``.
        context: The run.
    """
    shared = {"recipe": context.recipe.fingerprint(), "worker": f"{socket.gethostname()}/{os.getpid()}"}
    table = pa.Table.from_pylist([_index_row(*one, context) | shared for one in rows], INDEX)
    for column in context.carried:
        table = table.append_column(column, items[column.name].cast(column.type))
    return table.cast(index_schema(context.carried))


def _measure(results: list[dict[str, Any]], errors: list[ItemError | None]) -> None:
    done = [one for one, error in zip(results, errors, strict=True) if error is None]
    SECONDS.observe((one["finish_s"] for one in done), stage="finish")
    SECONDS.observe((one["write_s"] for one in done), stage="write")
    outputs = sum(one.get(f"{output}_bytes", 0) for one in done for output in OUTPUTS)
    WRITTEN.add(outputs + sum(file.get("bytes", 0) for one in done for file in one["renditions"] or ()))


def _encode_and_submit(
    batch: pa.Table,
    row: int,
    fact: Mapping[str, Any],
    errors: list[ItemError | None],
    context: StageContext,
    pool: ThreadPoolExecutor,
    isolated: IsolatedBatch,
) -> tuple[float, list[Future[dict[str, Any]]]]:
    """Encode the objects of one item and submit their writes to the pool. Returns the seconds spent and the writes."""
    start = time.perf_counter()
    if isinstance(errors[row], FailedBefore):
        return 0.0, []
    size = Size(fact["height"], fact["width"])
    image, mask = unpack(batch["pixels"], row, (*size, 3)), unpack(batch["mask"], row, size)
    assert image is not None and mask is not None  # a row without them has failed
    encoded = attempt(errors, row, lambda: isolated.run_one(row, lambda: _encode(image, mask, context)))
    item_id, name, fingerprints = fact["item_id"], fact["output_name"], context.rendition_recipes
    writes = []
    for output, data in encoded.outputs.items() if encoded else ():
        writes.append(pool.submit(write_output, context, item_id, name, output, data))
    for rendered in encoded.renditions if encoded else ():
        writes.append(pool.submit(write_rendition, context, item_id, name, rendered, fingerprints[rendered.name]))
    return time.perf_counter() - start, writes


def _encode(image: Pixels, mask: Mask, context: StageContext) -> Encoded:
    """Encode the objects of one item.

    Raises:
        WriteError: It ran out of memory.
    """
    recipe = context.recipe
    needs_colours = "cutout" in recipe.outputs or any(one.what == "cutout" for one in recipe.renditions)
    try:
        foreground = estimate_foreground(image, mask, recipe.foreground) if needs_colours else image
        encoders = {
            "mask": lambda: encode_mask(mask),
            "cutout": lambda: encode_cutout(foreground, mask),
            "trimap": lambda: encode_mask(trimap_of(mask)),
        }
        outputs: dict[str, bytes] = {output: encoders[output]() for output in recipe.outputs}
        return Encoded(outputs, list(render(recipe.renditions, foreground, mask, context.backgrounds, image)))
    except RESOURCE_ERRORS as error:
        raise WriteError(f"its files cannot be encoded ({type(error).__name__}); more memory may help") from error


def _index_row(
    fact: Mapping[str, Any], result: Mapping[str, Any], error: Mapping[str, str | None], context: StageContext
) -> dict[str, Any]:
    failed, threshold = error["error_code"] is not None, context.recipe.review_below
    assert threshold is not None  # the recipe is resolved
    objects = {key: None if failed else value for key, value in result.items() if not key.endswith("_s")}
    scored = ("quality", "quality_calibrated", "reasons", "signals", "models", "agreement")
    status = "failed" if failed else "review" if fact["quality"] < threshold else "ok"
    seconds = {
        stage: result.get(f"{stage}_s", fact.get(f"{stage}_s")) for stage in ("fetch", "decode", "segment", "finish", "write")
    }
    return {
        **{
            name: fact[name]
            for name in (
                "item_id",
                "output_name",
                "box",
                "prompt",
                *DETECTED,
                "image_sha256",
                "image_bytes",
                "image_version",
                "height",
                "width",
            )
        },
        "image_uri": fact["image_uri"] and strip_signature(fact["image_uri"]),  # signatures are secrets, and expire
        **{name: None if failed else fact[name] for name in scored},
        **objects,
        **error,
        "status": status,
        "model": context.recipe.name,
        "weights_sha256": context.recipe.weights_sha256,
        "run_id": context.run_id,
        "seconds": seconds,
        "finished_at": datetime.now(UTC),
    }
