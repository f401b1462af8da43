"""Masks to objects: colours, renditions, encoding, publishing, and the index row."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import pyarrow as pa

from pipeline.config.recipe import Recipe
from pipeline.errors import FetchError, ItemError, WriteError
from pipeline.imaging.encode import OUT_OF_MEANS, encode_cutout, encode_mask
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.renditions.render import Rendered, render
from pipeline.imaging.validate import fault, size_of
from pipeline.output.layout import OUTPUTS, Layout, input_mark
from pipeline.run.crash_ledger import CrashLedger, IsolatedBatch
from pipeline.run.metrics import SECONDS, WRITTEN
from pipeline.run.stages.columns import FailedBefore, attempt, errors_of, sha256, unpack, with_errors
from pipeline.run.stages.process import tune_process
from pipeline.schema import INDEX, index_schema
from pipeline.storage.files import Files
from pipeline.storage.uris import unsigned
from pipeline.types import Mask, Pixels, Size

PIXELS = {"pixels", "mask", "trimap"}
"""Columns that go no further."""


@dataclass(frozen=True)
class Finish:
    """What every row of a run shares."""

    recipe: Recipe
    layout: Layout
    run_id: str
    files: Files
    carried: pa.Schema
    threads: int
    ledger: CrashLedger | None = None
    item_s: float = 300.0
    backgrounds: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the pictures that renditions have behind the object, by SHA-256."""


class Encoded(NamedTuple):
    """An item's objects as files."""

    outputs: dict[str, bytes]
    renditions: list[Rendered]


def write_batch(batch: pa.Table, *, finish: Finish) -> pa.Table:
    """Publish the batch's objects and give its index rows, without pixels."""
    tune_process()
    errors = errors_of(batch)
    facts = batch.drop_columns(PIXELS & set(batch.column_names)).to_pylist()
    attempts = IsolatedBatch(finish.ledger, "finish", batch["item_id"].to_pylist(), finish.item_s)
    made: list[dict[str, Any]] = []
    with ThreadPoolExecutor(finish.threads) as pool:
        # Encoding keeps this core busy while the pool waits for the store.
        jobs = [_publish(batch, row, facts[row], errors, finish, pool, attempts) for row in range(batch.num_rows)]
        for row, (finish_s, written) in enumerate(jobs):
            objects = [attempt(errors, row, job.result) or {"write_s": 0.0} for job in written]
            write_s = sum(one.pop("write_s") for one in objects)
            renditions = [one.pop("rendition") for one in objects if "rendition" in one] if finish.recipe.renditions else None
            facts_made = {key: one[key] for one in objects for key in one}
            made.append({"finish_s": finish_s, "write_s": write_s, "renditions": renditions} | facts_made)
    attempts.over()
    _measure(made, errors)
    settled = with_errors(batch, errors).select(["error_code", "error_detail"]).to_pylist()
    same = {"recipe": finish.recipe.fingerprint(), "worker": f"{socket.gethostname()}/{os.getpid()}"}
    rows = [_index_row(fact, new, error, finish) | same for fact, new, error in zip(facts, made, settled, strict=True)]
    table = pa.Table.from_pylist(rows, INDEX)
    for column in finish.carried:
        table = table.append_column(column, batch[column.name].cast(column.type))
    return table.cast(index_schema(finish.carried))


def _measure(made: list[dict[str, Any]], errors: list[ItemError | None]) -> None:
    done = [one for one, error in zip(made, errors, strict=True) if error is None]
    SECONDS.observe((one["finish_s"] for one in done), stage="finish")
    SECONDS.observe((one["write_s"] for one in done), stage="write")
    outputs = sum(one.get(f"{output}_bytes", 0) for one in done for output in OUTPUTS)
    WRITTEN.add(outputs + sum(file.get("bytes", 0) for one in done for file in one["renditions"] or ()))


def _publish(
    batch: pa.Table,
    row: int,
    fact: Mapping[str, Any],
    errors: list[ItemError | None],
    finish: Finish,
    pool: ThreadPoolExecutor,
    attempts: IsolatedBatch,
) -> tuple[float, list[Future[dict[str, Any]]]]:
    """Encode one item's objects here and hand their writing to the pool."""
    start = time.perf_counter()
    if isinstance(errors[row], FailedBefore):
        return 0.0, []
    size = Size(fact["height"], fact["width"])
    image, mask = unpack(batch["pixels"], row, (*size, 3)), unpack(batch["mask"], row, size)
    assert image is not None and mask is not None  # a row without them has its error
    made_from = input_mark(fact["image_sha256"], fact["box"])

    trimap = unpack(batch["trimap"], row, size) if "trimap" in finish.recipe.outputs else None
    encoded = attempt(errors, row, lambda: attempts.one(row, lambda: _encode(image, mask, trimap, finish)))
    written = []
    for output, data in encoded.outputs.items() if encoded else ():
        uri = finish.layout.output(output, fact["item_id"], made_from)
        written.append(pool.submit(_write_output, finish.files, output, uri, data, size))
    for rendered in encoded.renditions if encoded else ():
        uri = finish.layout.rendition(rendered.name, fact["item_id"], made_from, rendered.suffix)
        written.append(pool.submit(_write_rendition, finish.files, uri, rendered))
    return time.perf_counter() - start, written


def _encode(image: Pixels, mask: Mask, trimap: Mask | None, finish: Finish) -> Encoded:
    """An item's objects as files."""
    recipe = finish.recipe
    coloured = "cutout" in recipe.outputs or any(one.what == "cutout" for one in recipe.renditions)
    try:
        foreground = estimate_foreground(image, mask, recipe.foreground) if coloured else image
        makers = {
            "mask": lambda: encode_mask(mask),
            "cutout": lambda: encode_cutout(foreground, mask),
            "trimap": lambda: encode_mask(cast(Mask, trimap)),
        }
        outputs: dict[str, bytes] = {output: makers[output]() for output in recipe.outputs}
        return Encoded(outputs, list(render(recipe.renditions, foreground, mask, finish.backgrounds)))
    except OUT_OF_MEANS as error:
        raise WriteError(f"its objects can't be made ({type(error).__name__}); it may need more memory") from error


def _write_output(files: Files, output: str, uri: str, data: bytes, size: Size) -> dict[str, Any]:
    """Publish one of the outputs and say what is there now."""
    start = time.perf_counter()
    data = _publish_once(files, uri, data, size)
    facts = {f"{output}_uri": uri, f"{output}_bytes": len(data), f"{output}_sha256": sha256(data)}
    return facts | {"write_s": time.perf_counter() - start}


def _write_rendition(files: Files, uri: str, rendered: Rendered) -> dict[str, Any]:
    """Publish a rendition's file, if it was made, and say what is there now."""
    start = time.perf_counter()
    if rendered.data is None or rendered.size is None:
        return {"rendition": {"name": rendered.name, "note": rendered.note}, "write_s": 0.0}
    data = _publish_once(files, uri, rendered.data)
    # Where a GPU didn't give the same bits twice, what is trimmed may be a pixel larger or smaller: the object tells its own.
    height, width = rendered.size if data == rendered.data else size_of(data, rendered.suffix)
    facts = {"name": rendered.name, "uri": uri, "bytes": len(data), "sha256": sha256(data), "height": height, "width": width}
    return {"rendition": facts | {"note": rendered.note}, "write_s": time.perf_counter() - start}


def _publish_once(files: Files, uri: str, data: bytes, size: Size | None = None) -> bytes:
    """Publish an object unless there is one, and give what is there now.

    One that is there already was made from the same input by a task that was repeated since, and its row may be in the
    index: it stays, and is what this row tells of, unless it is damaged, or of another size where that is certain.
    """
    if files.create(uri, data):
        return data
    try:
        found = files.read(uri)
    except FetchError as error:
        raise WriteError(str(error)) from error
    if found == data or fault(found, uri.rpartition(".")[2], size) is None:
        return found
    files.write(uri, data)
    return data


def _index_row(
    fact: Mapping[str, Any], made: Mapping[str, Any], error: Mapping[str, str | None], finish: Finish
) -> dict[str, Any]:
    failed = error["error_code"] is not None
    objects = {key: None if failed else value for key, value in made.items() if not key.endswith("_s")}
    judged = ("quality", "quality_calibrated", "reasons", "signals")
    status = "failed" if failed else "review" if fact["quality"] < finish.recipe.review_below else "ok"
    seconds = {
        stage: made.get(f"{stage}_s", fact.get(f"{stage}_s")) for stage in ("fetch", "decode", "segment", "finish", "write")
    }
    return {
        **{name: fact[name] for name in ("item_id", "box", "image_sha256", "image_bytes", "image_version", "height", "width")},
        "image_uri": fact["image_uri"] and unsigned(fact["image_uri"]),  # a signature is a secret, and stale tomorrow
        **{name: None if failed else fact[name] for name in judged},
        **objects,
        **error,
        "status": status,
        "model": finish.recipe.name,
        "weights_sha256": finish.recipe.weights_sha256,
        "run_id": finish.run_id,
        "seconds": seconds,
        "finished_at": datetime.now(UTC),
    }
