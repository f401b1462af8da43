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
from pipeline.errors import FetchError, ItemError, WriteError
from pipeline.imaging.encode import OUT_OF_MEANS, encode_cutout, encode_mask
from pipeline.imaging.foreground import estimate_foreground
from pipeline.imaging.published import png_fault
from pipeline.schema import INDEX, index_schema
from pipeline.stages.attempts import Attempts, Ledger
from pipeline.stages.rows import FailedBefore, attempt, errors_of, sha256, unpack, with_errors
from pipeline.stages.worker import settle_worker
from pipeline.storage.files import Files
from pipeline.storage.layout import Layout, input_mark
from pipeline.storage.uris import unsigned
from pipeline.types import Mask, Pixels


@dataclass(frozen=True)
class Finish:
    """What every row of a run shares."""

    recipe: Recipe
    layout: Layout
    run_id: str
    files: Files
    carried: pa.Schema
    threads: int
    ledger: Ledger | None = None
    item_s: float = 300.0


def finish_batch(batch: pa.Table, *, finish: Finish) -> pa.Table:
    """Publish the batch's masks and cutouts and give its index rows, without pixels."""
    settle_worker()
    errors = errors_of(batch)
    facts = batch.drop_columns(["pixels", "mask"]).to_pylist()
    attempts = Attempts(finish.ledger, "finish", batch["item_id"].to_pylist(), finish.item_s)
    made: list[dict[str, Any]] = []
    with ThreadPoolExecutor(finish.threads) as pool:
        # Encoding keeps this core busy while the pool waits for the store.
        jobs = [_publish(batch, row, facts[row], errors, finish, pool, attempts) for row in range(batch.num_rows)]
        for row, (finish_s, written) in enumerate(jobs):
            objects = [attempt(errors, row, job.result) or {"write_s": 0.0} for job in written]
            write_s = sum(one.pop("write_s") for one in objects)
            made.append({"finish_s": finish_s, "write_s": write_s} | {key: one[key] for one in objects for key in one})
    attempts.over()
    settled = with_errors(batch, errors).select(["error_code", "error_detail"]).to_pylist()
    same = {"recipe": finish.recipe.fingerprint(), "worker": f"{socket.gethostname()}/{os.getpid()}"}
    rows = [_index_row(fact, new, error, finish) | same for fact, new, error in zip(facts, made, settled, strict=True)]
    table = pa.Table.from_pylist(rows, INDEX)
    for field in finish.carried:
        table = table.append_column(field, batch[field.name].cast(field.type))
    return table.cast(index_schema(finish.carried))


def _publish(
    batch: pa.Table,
    row: int,
    fact: Mapping[str, Any],
    errors: list[ItemError | None],
    finish: Finish,
    pool: ThreadPoolExecutor,
    attempts: Attempts,
) -> tuple[float, list[Future[dict[str, Any]]]]:
    """Encode one item's objects here and hand their writing to the pool."""
    start = time.perf_counter()
    if isinstance(errors[row], FailedBefore):
        return 0.0, []
    shape = height, width = fact["height"], fact["width"]
    image, mask = unpack(batch["pixels"], row, (height, width, 3)), unpack(batch["mask"], row, shape)
    assert image is not None and mask is not None  # a row without them has its error
    made_from = input_mark(fact["image_sha256"], fact["box"])

    encoded = attempt(errors, row, lambda: attempts.one(row, lambda: _encode(image, mask, finish.recipe))) or {}
    written = []
    for output, data in encoded.items():
        place = finish.layout.mask if output == "mask" else finish.layout.cutout
        written.append(pool.submit(_write, finish.files, output, place(fact["item_id"], made_from), data, shape))
    return time.perf_counter() - start, written


def _encode(image: Pixels, mask: Mask, recipe: Recipe) -> dict[str, bytes]:
    """An item's objects as files, by output."""
    try:
        return {
            output: encode_mask(mask)
            if output == "mask"
            else encode_cutout(estimate_foreground(image, mask, recipe.foreground), mask)
            for output in recipe.outputs
        }
    except OUT_OF_MEANS as error:
        raise WriteError(f"its mask and cutout can't be made ({type(error).__name__}); it may need more memory") from error


def _write(files: Files, output: str, uri: str, data: bytes, shape: tuple[int, int]) -> dict[str, Any]:
    """Publish an object and say what is there now.

    One that is there already was made from the same input by a task that was repeated since, and its row may be in the
    index: it stays, and is what this row tells of, unless it is damaged.
    """
    start = time.perf_counter()
    if not files.create(uri, data):
        try:
            found = files.read(uri)
        except FetchError as error:
            raise WriteError(str(error)) from error
        if found != data and png_fault(found, *shape):
            files.write(uri, data)
        else:
            data = found
    facts = {f"{output}_uri": uri, f"{output}_bytes": len(data), f"{output}_sha256": sha256(data)}
    return facts | {"write_s": time.perf_counter() - start}


def _index_row(
    fact: Mapping[str, Any], made: Mapping[str, Any], error: Mapping[str, str | None], finish: Finish
) -> dict[str, Any]:
    failed = error["error_code"] is not None
    objects = {key: None if failed else value for key, value in made.items() if not key.endswith("_s")}
    judged = ("quality", "quality_calibrated", "reasons", "signals", "note")
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
