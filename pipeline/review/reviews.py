"""Import human reviews and store them beside the index (``matteline review import``).

Each import writes one part, ``reviews/reviews-<16 hex digits>.parquet``. Its name is a hash of its content, so importing a file
twice stores it once. The latest review of an item's present result counts: one of an earlier result (``versions``) is left out.
In a file that people wrote, a review without a version counts for any result, and one without a time was made in 1970. Of
reviews of one time, that of the last import counts. ``reviews/sample.json`` is the sample under review.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.sections import Count, Share, Stored, parse
from pipeline.errors import ConfigError, FetchError, StorageError
from pipeline.manifest.id_set import contains, hash_ids, merge_ids
from pipeline.output.index import read_index
from pipeline.output.layout import Layout
from pipeline.output.output import Output
from pipeline.output.settings import recipe_label
from pipeline.review.sampling import Plan, draw, percent, plan, upper_bound
from pipeline.review.versions import VERSION_COLUMNS, version_of
from pipeline.storage.errors import library_errors
from pipeline.storage.uris import join

VERDICTS = ("accept", "reject")
COLUMNS = ("item_id", "verdict", "note", "recipe", "time", "version")
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False, metadata={"about": "accept or reject"}),
        pa.field("note", pa.string()),
        pa.field("recipe", pa.string(), metadata={"about": "name and fingerprint of the recipe"}),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False, metadata={"about": "time of the review"}),
        pa.field("version", pa.string(), metadata={"about": "the result that it judged; null: any"}),
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
    outdated: int = 0
    """Items with reviews of earlier results only. They count as not reviewed."""

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
        earlier = f"; {describe_outdated(self.outdated)}" if self.outdated else ""
        return self._outcome + earlier

    @property
    def _outcome(self) -> str:
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


class Imported(NamedTuple):
    """The result of an import."""

    stored: int
    outdated: int
    """Reviews of earlier results, which are not stored."""
    uri: str


class Reviews(NamedTuple):
    """The reviews of an output."""

    latest: dict[str, dict[str, Any]]
    """The latest review of each item's present result, as rows of ``SCHEMA``."""
    outdated: set[str]
    """Items with reviews of earlier results only."""


def describe_outdated(count: int) -> str:
    """Return what became of the reviews of earlier results, for people."""
    return f"{count:,} {'review is' if count == 1 else 'reviews are'} of earlier results and left out"


def import_reviews(text: str, output: Output) -> Imported:
    """Check the CSV of a report page and write its reviews of the present results as a part.

    Raises:
        ConfigError: A column, item, verdict, recipe or time is invalid, and the message names the line; or all reviews are of
            earlier results.
        StorageError: The index cannot be read, or the part cannot be written.
    """
    rows = list(_rows(text, recipe_label(output), output.folder))
    if not rows:
        raise ConfigError("the file has no reviews; export it from the page of matteline report")
    versions = _versions(output, {row["item_id"] for _, row in rows})
    for line, row in rows:
        if row["version"] is None and row["item_id"] not in versions:
            raise ConfigError(
                f"line {line}: item {row['item_id']!r} is not in {output.folder}; import the file into its own output"
            )
    current = [row for _, row in rows if _is_current(row, versions)]
    if not current:
        raise ConfigError(
            f"none of the {len(rows):,} reviews is of a present result of {output.folder}; review a new matteline report"
        )
    table = pa.Table.from_pylist(sorted(current, key=lambda row: (row["item_id"], row["time"])), SCHEMA)
    content = json.dumps(table.to_pylist(), default=str).encode()
    uri = join(output.layout.reviews, f"reviews-{hashlib.sha256(content).hexdigest()[:16]}.parquet")
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    output.write(uri, sink.getvalue())
    return Imported(len(current), len(rows) - len(current), uri)


def read_reviews(output: Output) -> Reviews:
    """Return the reviews of the items' present results, and which items have only others.

    Raises:
        StorageError: A part or the index cannot be read, or is damaged.
    """
    latest: dict[tuple[str, str | None], dict[str, Any]] = {}
    parts = output.files.list(output.layout.reviews, suffixes=(".parquet",))
    for info in sorted(parts, key=lambda one: (one.modified, one.uri)):
        try:
            rows = _read_part(output.files.read(info.uri))
        except FetchError as error:
            raise StorageError(f"the reviews {info.uri} cannot be read ({error})") from error
        except (pa.ArrowException, *library_errors(), OverflowError) as error:
            raise StorageError(f"the reviews {info.uri} are damaged; delete them and import them again") from error
        for row in rows:
            key = (row["item_id"], row["version"])
            if key not in latest or latest[key]["time"] <= row["time"]:
                latest.pop(key, None)  # so that the dictionary has the order of the imports
                latest[key] = row
    versions = _versions(output, {item_id for item_id, _ in latest})
    current = sorted((row for row in latest.values() if _is_current(row, versions)), key=lambda row: row["time"])
    found = {row["item_id"]: row for row in current}
    return Reviews(found, {item_id for item_id, _ in latest} - found.keys())


def _versions(output: Output, ids: Collection[str]) -> dict[str, str]:
    """Return the versions of these items' present results. Items that are not in the index are left out."""
    if not ids:
        return {}
    wanted = merge_ids([hash_ids(pa.array(sorted(ids), pa.string()))])
    found: dict[str, str] = {}
    for part in read_index(output, ["item_id", *VERSION_COLUMNS]):
        rows = part.filter(pa.array(contains(wanted, hash_ids(part["item_id"]))))
        found |= {row["item_id"]: version_of(row) for row in rows.to_pylist()}
    return found


def _is_current(review: Mapping[str, Any], versions: Mapping[str, str]) -> bool:
    """Return whether a review counts for the present result of its item."""
    item_id, version = review["item_id"], review["version"]
    return item_id in versions and version in (None, versions[item_id])


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
        ConfigError: No such sample can be drawn, or there are fewer items than ``lot``.
        StorageError: The index cannot be read, or the sample cannot be written.
    """
    made = plan(lot, **settings)
    ids = draw(_items_with_objects(output), made.draw, seed)
    if len(ids) < made.draw:
        raise ConfigError(f"some items of {output.folder} have several rows; run its job again, which keeps the newest ones")
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
    verdicts = [reviews.latest[item_id]["verdict"] for item_id in sample.ids if item_id in reviews.latest]
    bad, outdated = verdicts.count("reject"), len(reviews.outdated.intersection(sample.ids))
    return SampleResult(made, len(verdicts), bad, upper_bound(bad, len(verdicts), made.confidence), outdated)


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
    return facts | {"note": row.get("note") or None, "recipe": recipe, "time": time, "version": row.get("version") or None}


def _items_with_objects(output: Output) -> Iterator[str]:
    for part in read_index(output, ["item_id", "status"]):
        yield from (row["item_id"] for row in part.to_pylist() if row["status"] != "failed")


def _sample_uri(layout: Layout) -> str:
    return join(layout.reviews, "sample.json")
