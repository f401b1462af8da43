"""Masks to objects: colours, PNG encoding, publishing, and the index row."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.config import Recipe
from pipeline.errors import ItemError
from pipeline.imaging.encode import encode_cutout, encode_mask
from pipeline.imaging.foreground import estimate_foreground
from pipeline.schema import INDEX, index_schema
from pipeline.stages.rows import FailedBefore, attempt, errors_of, sha256, unpack, with_errors
from pipeline.storage.files import Files
from pipeline.storage.layout import Layout
from pipeline.storage.uris import unsigned
from pipeline.types import as_alpha


@dataclass(frozen=True)
class Finish:
    """What every row of a run shares."""

    recipe: Recipe
    layout: Layout
    run_id: str
    files: Files
    carried: pa.Schema
    threads: int


def finish_batch(batch: pa.Table, *, finish: Finish) -> pa.Table:
    """Publish the batch's masks and cutouts and give its index rows, without pixels."""
    errors = errors_of(batch)
    facts = batch.drop_columns(["pixels", "mask"]).to_pylist()
    made: list[dict[str, Any]] = []
    with ThreadPoolExecutor(finish.threads) as pool:
        # Encoding keeps this core busy while the pool waits for the store.
        jobs = [_publish(batch, row, facts[row], errors, finish, pool) for row in range(batch.num_rows)]
        for row, (objects, finish_s, written) in enumerate(jobs):
            results = [attempt(errors, row, job.result) for job in written]
            made.append(objects | {"finish_s": finish_s, "write_s": sum(result or 0.0 for result in results)})
    settled = with_errors(batch, errors).select(["error_code", "error_detail"]).to_pylist()
    rows = [_index_row(fact, new, error, finish) for fact, new, error in zip(facts, made, settled, strict=True)]
    table = pa.Table.from_pylist(rows, INDEX)
    for field in finish.carried:
        table = table.append_column(field, batch[field.name].cast(field.type))
    return table.cast(index_schema(finish.carried))


def _publish(
    batch: pa.Table, row: int, fact: Mapping[str, Any], errors: list[ItemError | None], finish: Finish, pool: ThreadPoolExecutor
) -> tuple[dict[str, Any], float, list[Future[float]]]:
    """Encode one item's objects here and hand their writing to the pool."""
    start = time.perf_counter()
    if isinstance(errors[row], FailedBefore):
        return {}, 0.0, []
    height, width = fact["height"], fact["width"]
    image, mask = unpack(batch["pixels"], row, (height, width, 3)), unpack(batch["mask"], row, (height, width))
    assert image is not None and mask is not None  # a row without them has its error
    objects: dict[str, Any] = {}
    written = []
    for output in finish.recipe.outputs:
        if output == "mask":
            uri, data = finish.layout.mask(fact["item_id"]), encode_mask(mask)
        else:
            colours = estimate_foreground(image, as_alpha(mask), finish.recipe.foreground)
            uri, data = finish.layout.cutout(fact["item_id"]), encode_cutout(colours, mask)
        objects |= {f"{output}_uri": uri, f"{output}_bytes": len(data), f"{output}_sha256": sha256(data)}
        written.append(pool.submit(_write, finish.files, uri, data))
    return objects, time.perf_counter() - start, written


def _write(files: Files, uri: str, data: bytes) -> float:
    start = time.perf_counter()
    files.write(uri, data)
    return time.perf_counter() - start


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
        **{name: fact[name] for name in ("item_id", "box", "image_sha256", "image_bytes", "height", "width")},
        "image_uri": fact["image_uri"] and unsigned(fact["image_uri"]),  # a signature is a secret, and stale tomorrow
        **{name: None if failed else fact[name] for name in judged},
        **objects,
        **error,
        "status": status,
        "model": finish.recipe.name,
        "weights_sha256": finish.recipe.weights_sha256,
        "recipe": finish.recipe.fingerprint(),
        "run_id": finish.run_id,
        "worker": f"{socket.gethostname()}/{os.getpid()}",
        "seconds": seconds,
        "finished_at": datetime.now(UTC),
    }
