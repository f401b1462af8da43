"""Read the objects of an index and compare them with their rows: most of the work of a verification.

The index is divided into shares, which workers check in any order. Shares without findings are recorded in the output
(``_matteline/verify.json``), so that an interrupted verification does not read them again. Those with findings are read again,
because their objects may have been restored. So is everything while notes say that objects were being replaced
(``overwrites``): an object may be newer than the record, and its row older.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.concurrency import Each
from pipeline.errors import FetchError, StorageError, WriteError
from pipeline.imaging.validate import validation_error
from pipeline.log import PassProgress, log
from pipeline.manifest.id_set import IdSet, hash_ids
from pipeline.output.buckets import hash_keys
from pipeline.output.findings import VerifyReport
from pipeline.output.index import read_part
from pipeline.output.layout import OUTPUTS
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files
from pipeline.types import Size

COLUMNS = [
    *("item_id", "height", "width"),
    *(f"{output}_{fact}" for output in OUTPUTS for fact in ("path", "bytes", "sha256")),
    "renditions",
    "video_facts",
]

SHARE_BYTES = 700_000
"""Bytes of index per share: about 2,000 rows, whose objects take a minute or two to read."""

MAX_SHARES = 20_000
"""Shares of a very large index are larger, since each is a record of Ray's."""

CHUNK = 1024
"""Rows that are Python objects at the same time."""

SAVE_S = 30.0
"""Seconds between two records of the shares that are done."""


ReadVideo = Callable[[str, Files, int, Size], str | None]
"""Says what is wrong with a video, by its URI, that should have so many frames of this size; None if it is valid."""


@dataclass(frozen=True)
class Reading:
    """A choice of objects to read, and the step that reads them. It is sent to the workers."""

    output: Output
    sample: float
    """Share of the items whose objects are read, chosen by a hash of their id."""
    seed: int = 0
    threads: int = 16
    """Objects that a worker reads at the same time."""
    read_video: ReadVideo | None = None
    """Reads a video back; None compares its bytes only."""

    def is_sampled(self, item_ids: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Return which items are chosen."""
        return np.asarray(hash_keys(item_ids, self.seed) / 2.0**64 < self.sample)

    def __call__(self, share: Share) -> Iterator[pa.Table]:
        """Check the objects of one share. Yields one row: the share's number, a report (JSON) and the damaged ids (hashes).

        Raises:
            StorageError: An index part cannot be read.
        """
        report, damaged = VerifyReport(), []
        parts = [read_part(part, self.output.files, COLUMNS) for part in share.parts]
        rows = pa.concat_tables(parts, promote_options="default")  # rows of other versions lack some columns
        first, last = (rows.num_rows * piece // share.pieces for piece in (share.piece, share.piece + 1))
        rows = rows.slice(first, last - first)
        rows = rows.filter(pa.array(self.is_sampled(rows["item_id"])))
        with ThreadPoolExecutor(self.threads) as pool:
            for start in range(0, rows.num_rows, CHUNK):
                chunk = rows.slice(start, CHUNK).to_pylist()
                for row, check in zip(chunk, pool.map(partial(_check_row, self), chunk), strict=True):
                    damaged += [row["item_id"]] * (not check.sound)
                    report.merge(check)
        report.rows = rows.num_rows
        hashes = hash_ids(pa.array(damaged, pa.string())).tobytes()
        yield pa.table({"share": [share.number], "report": [json.dumps(asdict(report))], "damaged": [hashes]})


@dataclass(frozen=True)
class Share:
    """Some small index parts, or a piece of a large one."""

    number: int
    parts: tuple[FileInfo, ...]
    piece: int = 0
    pieces: int = 1


def shares_of(parts: Sequence[FileInfo]) -> list[Share]:
    """Divide an index into shares of about the same size."""
    size = max(SHARE_BYTES, sum(part.size for part in parts) // MAX_SHARES)
    groups: list[list[FileInfo]] = []
    for part in parts:
        if not groups or sum(one.size for one in groups[-1]) + part.size > size:
            groups.append([])
        groups[-1].append(part)
    pieces = [(tuple(group), max(1, round(sum(part.size for part in group) / size))) for group in groups]
    places = [(group, piece, count) for group, count in pieces for piece in range(count)]
    return [Share(number, *place) for number, place in enumerate(places)]


def read_objects(reading: Reading, parts: Sequence[FileInfo], items: int, report: VerifyReport, each: Each) -> IdSet:
    """Check the objects of all chosen items, and add what is found to the report.

    Args:
        reading: Which objects are read.
        parts: The index.
        items: Number of the chosen items.
        report: Receives the findings.
        each: Checks the shares.

    Returns:
        The hashes of the ids of damaged items, unsorted.

    Raises:
        StorageError: An index part cannot be read.
    """
    shares = shares_of(parts) if items else []
    is_noted = next(reading.output.files.list(reading.output.layout.overwrites), None) is not None
    record = _Record(reading, parts, worthwhile=len(shares) > 1 and not is_noted)
    report.merge(record.report)
    damaged: list[bytes] = []
    with PassProgress("reading the objects of items", items) as progress, closing(record):
        progress.add(record.report.rows)
        for table in each(reading, [share for share in shares if share.number not in record.done]):
            for row in table.to_pylist():
                found = VerifyReport(**json.loads(row["report"]))
                record.add(row["share"], found)
                report.merge(found)
                damaged.append(row["damaged"])
                progress.add(found.rows)
        record.delete()
    return np.frombuffer(b"".join(damaged), "S16")


class _Record:
    """The shares that were read without findings, in the output. Without permission to write there, nothing is recorded."""

    def __init__(self, reading: Reading, parts: Sequence[FileInfo], *, worthwhile: bool) -> None:
        self.done: set[int] = set()
        self.report = VerifyReport()
        """Rows, objects and bytes of these shares."""
        self._output, self._uri = reading.output, reading.output.layout.verify
        subject = [(part.uri.removeprefix(reading.output.folder), part.size, part.etag) for part in parts]
        key = [subject, SHARE_BYTES, MAX_SHARES, reading.sample, reading.seed]
        self._key = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        self._began, self._saved_at = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        self._enabled, self._is_stored = worthwhile, False
        if worthwhile:
            self._load()

    def add(self, share: int, found: VerifyReport) -> None:
        """Record a share, and write the record now and then."""
        if found.sound:
            self.done.add(share)
            self.report.merge(found)
            self.report.rows += found.rows
        if time.monotonic() - self._saved_at >= SAVE_S:
            self._save()

    def close(self) -> None:
        """Write the record, unless all shares were read."""
        self._save()

    def delete(self) -> None:
        """Delete the record."""
        self._enabled = False
        if self._is_stored:
            try:
                self._output.files.delete(self._uri)
            except StorageError as error:
                log.warning(f"{self._uri} is out of date and cannot be deleted: {error}")

    def _load(self) -> None:
        files = self._output.files
        try:
            self._is_stored = files.exists(self._uri)
            found = json.loads(files.read(self._uri)) if self._is_stored else {}
            if found.get("key") != self._key:
                return
            self.done, self._began = set(map(int, found["done"])), str(found["began"])
            self.report = VerifyReport(int(found["rows"]), int(found["objects"]), int(found["object_bytes"]))
        except (FetchError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(f"{self._uri} cannot be used ({error!r}); all objects are read")
            return
        log.info(
            f"{self.report.objects} objects were read since {self._began} and found intact; the others follow. "
            f"To read all of them again, delete {self._uri}"
        )

    def _save(self) -> None:
        if not self._enabled or not self.done:
            return
        facts = {name: getattr(self.report, name) for name in ("rows", "objects", "object_bytes")}
        content = {"key": self._key, "began": self._began, **facts, "done": sorted(self.done)}
        try:
            self._output.files.write(self._uri, json.dumps(content).encode())
            self._saved_at, self._is_stored = time.monotonic(), True
        except WriteError as error:
            self._enabled = False
            log.warning(f"if this is interrupted, it will begin again, since its progress cannot be written: {error}")


class _Object(NamedTuple):
    """An object as its row describes it."""

    path: str
    bytes: int
    sha256: str
    height: int
    width: int


def _check_row(reading: Reading, row: dict[str, Any]) -> VerifyReport:
    output, check, size = reading.output, VerifyReport(), (row["height"], row["width"])
    outputs = [one for one in OUTPUTS if row[f"{one}_path"] is not None]
    objects = [_Object(row[f"{one}_path"], row[f"{one}_bytes"], row[f"{one}_sha256"], *size) for one in outputs]
    objects += [_Object(*(one[fact] for fact in _Object._fields)) for one in row["renditions"] or () if one["path"] is not None]
    for one in objects:
        _check_object(output, row["item_id"], one, check)
    video = row["video_facts"]
    for file in video["files"] if video else ():
        _check_video(reading, row["item_id"], _Object(*(file[fact] for fact in _Object._fields)), video["frames"], check)
    return check


def _check_video(reading: Reading, item_id: str, expected: _Object, frames: int, check: VerifyReport) -> None:
    """Check a file of a video, which need not fit into memory."""
    output = reading.output
    try:
        sha256, size = output.digest(expected.path)
    except FetchError as error:
        check.add("absent", f"{item_id}: {error}")
        return
    check.objects, check.object_bytes = check.objects + 1, check.object_bytes + size
    if (size, sha256) != (expected.bytes, expected.sha256):
        check.add("changed", f"{item_id}: {expected.path}")
    if reading.read_video is not None:
        uri, wanted = output.layout.uri(expected.path), Size(expected.height, expected.width)
        if reason := reading.read_video(uri, output.files, frames, wanted):
            check.add("undecodable", f"{item_id}: {expected.path}: {reason}")


def _check_object(output: Output, item_id: str, expected: _Object, check: VerifyReport) -> None:
    try:
        data = output.read(expected.path)
    except FetchError as error:
        check.add("absent", f"{item_id}: {error}")
        return
    check.objects, check.object_bytes = check.objects + 1, check.object_bytes + len(data)
    if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
        check.add("changed", f"{item_id}: {expected.path}")
    reason = validation_error(data, expected.path.rpartition(".")[2], Size(expected.height, expected.width))
    if reason:
        check.add("undecodable", f"{item_id}: {expected.path}: {reason}")
