"""Import human reviews and store them beside the index (``matteline review import``).

Each import writes one part, ``reviews/reviews-<16 hex digits>.parquet``. Its name is a hash of its content, so importing a file
twice stores it once. The latest review of an item counts. ``reviews/sample.json`` is the sample under review.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.sections import Count, Share, Stored, parse
from pipeline.errors import ConfigError, FetchError, StorageError
from pipeline.manifest.id_set import contains, hash_ids
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.output.output import Output
from pipeline.output.settings import recipe_label
from pipeline.review.sampling import Plan, draw, percent, plan, upper_bound
from pipeline.storage.errors import library_errors
from pipeline.storage.uris import join

VERDICTS = ("accept", "reject")
COLUMNS = ("item_id", "verdict", "note", "recipe", "time")
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False, metadata={"about": "accept or reject"}),
        pa.field("note", pa.string()),
        pa.field("recipe", pa.string(), metadata={"about": "name and fingerprint of the recipe"}),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False, metadata={"about": "time of the review"}),
    ]
)


class Sample(Stored):
    """The content of ``sample.json``: the plan, and the items to review."""

    lot: Count
    at_most: Share
    confidence: Share
    allowed: Count
    draw: Count
    ids: list[str]


@dataclass(frozen=True)
class SampleResult:
    """The reviews of a sample."""

    plan: Plan
    reviewed: int
    bad: int
    upper_bound: float
    """Upper bound of the share of bad items, with the plan's confidence."""

    @property
    def complete(self) -> bool:
        """Return True if all items of the sample are reviewed."""
        return self.reviewed == self.plan.draw

    @property
    def accepted(self) -> bool:
        """Return True if the sample is complete and has no more bad items than allowed."""
        return self.complete and self.bad <= self.plan.allowed

    @property
    def message(self) -> str:
        """The result in one sentence for people."""
        plan_, so_far = self.plan, f"{self.reviewed:,} of {self.plan.draw:,} checked, {self.bad:,} bad"
        if self.bad > plan_.allowed:
            bound = (
                f"up to {percent(self.upper_bound)} of all {plan_.lot:,} items may be bad ({percent(plan_.confidence)} certain)"
            )
            return f"not passed: {so_far}, {plan_.allowed:,} allowed; {bound}; improve the output, then draw a new sample"
        if self.complete:
            return f"passed: {so_far}; {plan_.claim}"
        started = f"{so_far}, {plan_.draw - self.reviewed:,} still to check; " if self.reviewed else ""
        return f"open: {started}{plan_.describe()}"


def import_reviews(text: str, output: Output) -> tuple[int, str]:
    """Check the CSV of a report page and write it as a part.

    Returns:
        The number of reviews, and the part's URI.

    Raises:
        ConfigError: A column, item, verdict, recipe or time is invalid. The message names the line.
        StorageError: The index cannot be read, or the part cannot be written.
    """
    rows = list(_rows(text, recipe_label(output), output.folder))
    if not rows:
        raise ConfigError("the file has no reviews; export it from the page of matteline report")
    keys = hash_ids(pa.array([row["item_id"] for _, row in rows], pa.string()))
    known = np.zeros(len(rows), np.bool_)
    for part in read_index(output, ["item_id"]):
        known |= contains(np.sort(hash_ids(part["item_id"])), keys)
    if not known.all():
        line, row = rows[int(np.argmin(known))]
        raise ConfigError(
            f"line {line}: item {row['item_id']!r} is not in {output.folder}; import the file into its own output"
        )
    table = pa.Table.from_pylist(sorted((row for _, row in rows), key=lambda row: (row["item_id"], row["time"])), SCHEMA)
    content = json.dumps(table.to_pylist(), default=str).encode()
    uri = join(output.layout.reviews, f"reviews-{hashlib.sha256(content).hexdigest()[:16]}.parquet")
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    output.write(uri, sink.getvalue())
    return len(rows), uri


def read_reviews(output: Output) -> dict[str, dict[str, Any]]:
    """Return the latest review per item, as rows of ``SCHEMA``.

    Raises:
        StorageError: A part cannot be read, or is damaged.
    """
    latest: dict[str, dict[str, Any]] = {}
    for info in output.files.list(output.layout.reviews, suffixes=(".parquet",)):
        try:
            rows = _read_part(output.files.read(info.uri))
        except FetchError as error:
            raise StorageError(f"the reviews {info.uri} cannot be read ({error})") from error
        except (pa.ArrowException, *library_errors(), OverflowError) as error:
            raise StorageError(f"the reviews {info.uri} are damaged; delete them and import them again") from error
        for row in rows:
            if row["item_id"] not in latest or latest[row["item_id"]]["time"] <= row["time"]:
                latest[row["item_id"]] = row
    return latest


def _read_part(data: bytes) -> list[dict[str, Any]]:
    """Return the rows of a part.

    Raises:
        ArrowException: The part is damaged; or OSError, ValueError or OverflowError.
    """
    table = pq.read_table(io.BytesIO(data), schema=SCHEMA, page_checksum_verification=True)
    table.validate(full=True)
    if any(table[field.name].null_count for field in SCHEMA if not field.nullable):
        raise ValueError("a cell is empty")
    if not set(table["verdict"].to_pylist()) <= set(VERDICTS):
        raise ValueError("a verdict is unknown")
    return list(table.to_pylist())


def draw_sample(output: Output, settings: Mapping[str, Any], seed: int, lot: int) -> list[str]:
    """Draw the items to review from the ``lot`` items with objects, and write them to ``reviews/sample.json``.

    ``settings`` has ``at_most``, ``confidence`` and ``allowed`` of ``sampling.plan``.

    Raises:
        ConfigError: No such sample can be drawn.
        StorageError: The index cannot be read, or the sample cannot be written.
    """
    made = plan(lot, **settings)
    ids = draw(_items_with_objects(output), made.draw, seed)
    output.write(_sample_uri(output.layout), json.dumps(asdict(made) | {"seed": seed, "ids": ids}).encode())
    return ids


def review_sample(output: Output) -> SampleResult | None:
    """Return the result of the sample from the reviews so far; None without a sample.

    Raises:
        StorageError: The sample or the reviews cannot be read.
    """
    uri = _sample_uri(output.layout)
    if not output.files.exists(uri):
        return None
    try:
        sample = parse(Sample, output.files.read(uri))
        if len(set(sample.ids)) != sample.draw:
            raise ValueError(f"it has {len(set(sample.ids))} items, not {sample.draw}")
    except (FetchError, ValueError) as error:
        raise StorageError(f"the sample {uri} cannot be read ({error}); draw it again") from error
    made = Plan(**sample.model_dump(include=set(Plan.__dataclass_fields__)))
    reviews = read_reviews(output)
    verdicts = [reviews[item_id]["verdict"] for item_id in sample.ids if item_id in reviews]
    bad = verdicts.count("reject")
    return SampleResult(made, len(verdicts), bad, upper_bound(bad, len(verdicts), made.confidence))


def _rows(text: str, recipe: str, folder: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and row."""
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        missing = [name for name in ("item_id", "verdict") if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"line 1: the file lacks the column {missing[0]}; a review file has the columns {', '.join(COLUMNS)}"
            )
        for row in reader:
            yield reader.line_num, _parse_row(row, reader.line_num, recipe, folder)
    except csv.Error as error:
        raise ConfigError(f"line {reader.reader.line_num}: invalid CSV ({error}); export the reviews again") from error


_QUOTED_FORMULA = re.compile(r"'(?='*[=+\-@\t\r])")
"""The apostrophe that the page puts before a text that a spreadsheet would run as a formula."""


def _plain(cell: str) -> str:
    return cell[1:] if _QUOTED_FORMULA.match(cell) else cell


def _parse_row(row: dict[str, Any], line: int, recipe: str, folder: str) -> dict[str, Any]:
    row = {name: _plain(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
    if None in row or not row["item_id"]:
        raise ConfigError(f"line {line}: the item_id is empty, or the line has too many cells; export the reviews again")
    if row["verdict"] not in VERDICTS:
        raise ConfigError(f"line {line}: item {row['item_id']!r} has the verdict {row['verdict']!r}; write accept or reject")
    if (reviewed := row.get("recipe") or recipe) != recipe:
        raise ConfigError(
            f"line {line}: item {row['item_id']!r} was reviewed in {reviewed!r}; import it there, not into {folder}"
        )
    try:
        time = datetime.fromisoformat(row["time"]) if row.get("time") else datetime.fromtimestamp(0, UTC)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # midnight of the first year, east of Greenwich, is in no year
        raise ConfigError(f"line {line}: the time {row['time']!r} is invalid; write it as 2026-01-31T12:00:00Z") from error
    facts = {name: row[name] for name in ("item_id", "verdict")}
    return facts | {"note": row.get("note") or None, "recipe": recipe, "time": time}


def _items_with_objects(output: Output) -> Iterator[str]:
    for part in read_index(output, ["item_id", "status"]):
        yield from (row["item_id"] for row in part.to_pylist() if row["status"] != "failed")


def _sample_uri(layout: Layout) -> str:
    return join(layout.reviews, "sample.json")
