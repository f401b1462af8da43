"""Items to pixels: fetch the images' bytes, several at once, and decode them one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.concurrency import map_ahead
from pipeline.config.job import Limits
from pipeline.errors import ItemError
from pipeline.imaging.decode import decode
from pipeline.run.crash_ledger import CrashLedger, IsolatedBatch
from pipeline.run.metrics import FETCHED, SECONDS
from pipeline.run.stages.columns import attempt, column, errors_of, pack, replace, sha256, with_errors
from pipeline.run.stages.process import tune_process
from pipeline.storage.allowlist import AllowList
from pipeline.storage.backend import Content
from pipeline.storage.files import Files
from pipeline.types import Pixels


def decode_batch(
    items: pa.Table,
    *,
    files: Files,
    allowlist: AllowList,
    limits: Limits,
    threads: int,
    block_mib: int,
    ledger: CrashLedger | None = None,
    until: float | None = None,
) -> Iterator[pa.Table]:
    """Items with their pixels, in tables of at most ``block_mib`` (or one image, if it is larger).

    Adds ``pixels`` (H·W·3 bytes, RGB, upright), ``height``, ``width``, ``image_sha256``, ``image_bytes``, ``image_version``,
    ``fetch_s``, ``decode_s``; null where the item failed, with its error in ``error_code`` and ``error_detail``. An image whose
    symbolic links lead out of ``allowlist`` is not read. From ``until`` on (seconds since 1970) nothing is taken up: no table.
    """
    if until is not None and time.time() >= until:
        return
    tune_process()
    errors = errors_of(items)
    uris = items["image_uri"].to_pylist()

    def read(row: int) -> Content:
        return files.fetch(allowlist.real_path(uris[row]), max_bytes=limits.max_bytes, timeout_s=limits.fetch_s)

    def fetch(row: int) -> tuple[Content | None, float]:
        start = time.perf_counter()
        content = attempt(errors, row, lambda: read(row))
        return content, time.perf_counter() - start

    attempts = IsolatedBatch(ledger, "decode", items["item_id"].to_pylist(), limits.item_s)
    part = _Part(items, errors, attempts)
    with ThreadPoolExecutor(threads) as pool:
        for row, (content, fetch_s) in enumerate(map_ahead(pool, fetch, range(items.num_rows), 2 * threads)):
            part.add(row, content, fetch_s, limits)
            if part.bytes >= block_mib * 2**20:
                yield part.table()
                part = _Part(items, errors, attempts)
    if part.rows:
        yield part.table()
    attempts.over()


class _Part:
    """Rows that will leave as one table."""

    def __init__(self, items: pa.Table, errors: list[ItemError | None], attempts: IsolatedBatch) -> None:
        self.items, self.errors, self.attempts = items, errors, attempts
        self.rows: list[int] = []
        self.images: list[Pixels | None] = []
        self.facts: list[tuple[str | None, int | None, str | None, float, float]] = []
        self.bytes = 0

    def add(self, row: int, content: Content | None, fetch_s: float, limits: Limits) -> None:
        start = time.perf_counter()
        image, hashed, size, version = None, None, None, None
        if content is not None:
            data, hashed, size, version = content.data, sha256(content.data), len(content.data), content.etag or None
            image = attempt(self.errors, row, lambda: self.attempts.one(row, lambda: decode(data, limits)))
        self.rows.append(row)
        self.images.append(image)
        self.facts.append((hashed, size, version, fetch_s, time.perf_counter() - start))
        self.bytes += 0 if image is None else image.nbytes

    def table(self) -> pa.Table:
        hashes, sizes, versions, fetch_s, decode_s = zip(*self.facts, strict=True)
        SECONDS.observe(fetch_s, stage="fetch")
        SECONDS.observe(decode_s, stage="decode")
        FETCHED.add(sum(size or 0 for size in sizes))
        table = with_errors(self.items.take(self.rows), [self.errors[row] for row in self.rows])
        return replace(
            table,
            pixels=pack(self.images),
            height=column([None if image is None else image.shape[0] for image in self.images], pa.int32()),
            width=column([None if image is None else image.shape[1] for image in self.images], pa.int32()),
            image_sha256=column(hashes, pa.string()),
            image_bytes=column(sizes, pa.int64()),
            image_version=column(versions, pa.string()),
            fetch_s=column(fetch_s, pa.float32()),
            decode_s=column(decode_s, pa.float32()),
        )
