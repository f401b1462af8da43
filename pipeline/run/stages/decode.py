"""Fetch the images of some items, several at once, and decode them one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.errors import ItemError, ItemRefused
from pipeline.imaging.decode import decode
from pipeline.run.context import StageContext
from pipeline.run.crash_ledger import IsolatedBatch
from pipeline.run.metrics import FETCHED, SECONDS
from pipeline.run.stages.columns import Packed, attempt, column, errors_of, replace, sha256, with_errors
from pipeline.run.stages.process import tune_process
from pipeline.storage.allowlist import RETRY_ITEM
from pipeline.storage.backend import Content
from pipeline.types import Pixels


def decode_batch(items: pa.Table, *, context: StageContext) -> Iterator[pa.Table]:
    """Add pixels to items, in tables of at most ``context.block_mib`` (or one image, if it is larger).

    Adds ``pixels`` (H·W·3 bytes, RGB, upright), ``height``, ``width``, ``image_sha256``, ``image_bytes``, ``image_version``,
    ``fetch_s``, ``decode_s``. They are null where the item failed; its error is in ``error_code`` and ``error_detail``. An
    image whose symbolic links lead out of the allow-list is not read. After ``context.deadline`` there are no tables.
    """
    if context.is_late():
        return
    tune_process()
    limits, threads = context.job.limits, context.job.compute.fetch_threads
    errors, uris = errors_of(items), items["image_uri"].to_pylist()

    def read(row: int) -> Content:
        try:
            uri = context.allowlist.real_path(uris[row])
        except ItemRefused as error:
            raise ItemRefused(f"{error}; {RETRY_ITEM}") from error
        return context.files.fetch(uri, max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)

    def fetch(row: int) -> tuple[Content | None, float]:
        start = time.perf_counter()
        content = attempt(errors, row, lambda: read(row))
        return content, time.perf_counter() - start

    isolated = context.isolated("decode", items["item_id"].to_pylist())
    block = _Block(items, errors, isolated)
    with ThreadPoolExecutor(threads) as pool:
        for row, (content, fetch_s) in enumerate(map_ahead(pool, fetch, range(items.num_rows), 2 * threads)):
            block.add(row, content, fetch_s, limits)
            if block.pixels.bytes >= context.block_mib * 2**20:
                yield block.table()
                block = _Block(items, errors, isolated)
    if block.rows:
        yield block.table()
    isolated.finish()


class _Block:
    """Rows that leave as one table."""

    def __init__(self, items: pa.Table, errors: list[ItemError | None], isolated: IsolatedBatch) -> None:
        self.items, self.errors, self.isolated = items, errors, isolated
        self.rows: list[int] = []
        self.pixels, self.sizes = Packed(), list[tuple[int, int] | tuple[None, None]]()
        self.facts: list[tuple[str | None, int | None, str | None, float, float]] = []

    def add(self, row: int, content: Content | None, fetch_s: float, limits: Limits) -> None:
        start = time.perf_counter()
        image: Pixels | None = None
        digest, size, version = None, None, None
        if content is not None:
            data, digest, size, version = content.data, sha256(content.data), len(content.data), content.etag or None
            image = attempt(self.errors, row, lambda: self.isolated.run_one(row, lambda: decode(data, limits)))
        self.rows.append(row)
        self.pixels.add(image)
        self.sizes.append((None, None) if image is None else image.shape[:2])
        self.facts.append((digest, size, version, fetch_s, time.perf_counter() - start))

    def table(self) -> pa.Table:
        digests, sizes, versions, fetch_s, decode_s = zip(*self.facts, strict=True)
        SECONDS.observe(fetch_s, stage="fetch")
        SECONDS.observe(decode_s, stage="decode")
        FETCHED.add(sum(size or 0 for size in sizes))
        table = with_errors(self.items.take(self.rows), [self.errors[row] for row in self.rows])
        return replace(
            table,
            pixels=self.pixels.column(),
            height=column([height for height, _ in self.sizes], pa.int32()),
            width=column([width for _, width in self.sizes], pa.int32()),
            image_sha256=column(digests, pa.string()),
            image_bytes=column(sizes, pa.int64()),
            image_version=column(versions, pa.string()),
            fetch_s=column(fetch_s, pa.float32()),
            decode_s=column(decode_s, pa.float32()),
        )
