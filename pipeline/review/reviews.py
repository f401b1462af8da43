"""What people said of items, kept beside the index: ``matteline review import``.

Reviews are parts of their own (``reviews/reviews-<16 hex digits>.parquet``), named by what is in them: the same file
imported twice is there once. On reading, the latest verdict of an item counts. ``reviews/sample.json`` is the sample that
is being judged.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, FetchError, StorageError
from pipeline.manifest.id_set import contains, hash_ids
from pipeline.output.index import put, read_index
from pipeline.output.layout import Layout
from pipeline.review.sampling import Plan, drawn, plan, upper_bound
from pipeline.storage.files import Files
from pipeline.storage.uris import join

WORDS = ("accept", "reject")
COLUMNS = ("item_id", "verdict", "note", "recipe", "time")
SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False, metadata={"about": "accept or reject"}),
        pa.field("note", pa.string()),
        pa.field("recipe", pa.string(), metadata={"about": "name of the recipe folder"}),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False, metadata={"about": "when it was given"}),
    ]
)


@dataclass(frozen=True)
class Judgement:
    """What the reviews say of a sample."""

    plan: Plan
    judged: int
    bad: int
    upper_bound: float
    """Of the bad share, with the plan's confidence."""

    @property
    def complete(self) -> bool:
        return self.judged == self.plan.draw

    @property
    def accepted(self) -> bool:
        return self.complete and self.bad <= self.plan.allowed

    @property
    def sentence(self) -> str:
        """For a person."""
        asked = f"at most {self.plan.at_most:.4g} bad with {self.plan.confidence:.4g} confidence"
        so_far = f"{self.judged} of {self.plan.draw} judged, {self.bad} bad ({self.plan.allowed} allowed)"
        open_or_accepted = "accepted" if self.complete else "open: judge the rest"
        outcome = "not accepted" if self.bad > self.plan.allowed else open_or_accepted
        bound = f"; at most {self.upper_bound:.4f} are bad (Clopper-Pearson, of an endless lot)" if self.judged else ""
        return f"{asked}: {outcome}; {so_far}{bound}"


def import_reviews(text: str, layout: Layout, files: Files) -> tuple[int, str]:
    """Check a page's CSV and write it as a part.

    Returns:
        how many reviews it has, and the part's URI.

    Raises:
        ConfigError: a column, an item, a word, a recipe or a time that can't be; the sentence names the line.
        StorageError: the index can't be read, or the part can't be written.
    """
    rows = list(_rows(text, layout))
    if not rows:
        raise ConfigError("the reviews' file has no reviews; export it from the page of matteline report")
    named = pa.array([row["item_id"] for _, row in rows], pa.string())
    known = np.zeros(len(rows), np.bool_)
    keys = hash_ids(named)
    for part in read_index(layout, files, ["item_id"]):
        known |= contains(np.sort(hash_ids(part["item_id"])), keys)
    if not known.all():
        line, row = rows[int(np.argmin(known))]
        raise ConfigError(f"line {line}: item {row['item_id']!r} is not in {layout.folder}; import it into the output it is of")
    table = pa.Table.from_pylist(sorted((row for _, row in rows), key=lambda row: (row["item_id"], row["time"])), SCHEMA)
    content = json.dumps(table.to_pylist(), default=str).encode()
    uri = join(layout.reviews, f"reviews-{hashlib.sha256(content).hexdigest()[:16]}.parquet")
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    put(uri, sink.getvalue(), files)
    return len(rows), uri


def read_reviews(layout: Layout, files: Files) -> dict[str, dict[str, Any]]:
    """The latest verdict of every item that has one, as a row of ``SCHEMA``.

    Raises:
        StorageError: a part can't be read, or is damaged.
    """
    latest: dict[str, dict[str, Any]] = {}
    for info in files.list(layout.reviews, suffixes=(".parquet",)):
        try:
            rows = pq.read_table(io.BytesIO(files.read(info.uri)), schema=SCHEMA).to_pylist()
        except (FetchError, pa.ArrowException) as error:
            raise StorageError(
                f"the reviews {info.uri} can't be read ({error}); remove the part and import it again"
            ) from error
        for row in rows:
            if row["item_id"] not in latest or latest[row["item_id"]]["time"] <= row["time"]:
                latest[row["item_id"]] = row
    return latest


def draw_sample(layout: Layout, files: Files, asked: Mapping[str, Any], seed: int, lot: int) -> list[str]:
    """Draw the items to judge among those with objects, and keep which they are in ``reviews/sample.json``.

    Args:
        asked: ``at_most``, ``confidence`` and ``allowed`` of ``sampling.plan``.
        lot: how many items have objects.

    Raises:
        ConfigError: no such sample can be drawn.
        StorageError: the index can't be read, or the sample can't be written.
    """
    made = plan(lot, **asked)
    ids = drawn(_good(layout, files), made.draw, seed)
    put(_sample(layout), json.dumps(asdict(made) | {"seed": seed, "ids": ids}).encode(), files)
    return ids


def judge_sample(layout: Layout, files: Files) -> Judgement | None:
    """What the reviews say of the sample; None where none was drawn.

    Raises:
        StorageError: it can't be read.
    """
    if not files.exists(_sample(layout)):
        return None
    try:
        kept = json.loads(files.read(_sample(layout)))
        made = Plan(*(kept[name] for name in Plan.__dataclass_fields__))
        ids = kept["ids"]
    except (FetchError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"the sample {_sample(layout)} can't be read ({error!r}); draw it again") from error
    reviews = read_reviews(layout, files)
    words = [reviews[item_id]["verdict"] for item_id in ids if item_id in reviews]
    bad = words.count("reject")
    return Judgement(made, len(words), bad, upper_bound(bad, len(words), made.confidence))


def _rows(text: str, layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    try:
        missing = [name for name in ("item_id", "verdict") if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"line 1: the reviews' file lacks the column {missing[0]}; its columns are {', '.join(COLUMNS)}")
        for row in reader:
            yield reader.line_num, _checked(row, reader.line_num, layout)
    except csv.Error as error:
        raise ConfigError(f"line {reader.reader.line_num}: this is no CSV ({error}); export the reviews again") from error


def _checked(row: dict[str, Any], line: int, layout: Layout) -> dict[str, Any]:
    if None in row or not row["item_id"]:
        raise ConfigError(f"line {line}: the item_id is empty or the line has too many cells; export the reviews again")
    if row["verdict"] not in WORDS:
        raise ConfigError(f"line {line}: item {row['item_id']!r} has the verdict {row['verdict']!r}; write accept or reject")
    recipe = row.get("recipe") or layout.recipe_folder
    if recipe != layout.recipe_folder:
        raise ConfigError(
            f"line {line}: item {row['item_id']!r} was judged in {recipe!r}; import it there, not into {layout.folder}"
        )
    try:
        time = datetime.fromisoformat(row["time"]) if row.get("time") else datetime.fromtimestamp(0, UTC)
    except ValueError as error:
        raise ConfigError(f"line {line}: the time {row['time']!r} is none; write it as 2026-01-31T12:00:00Z") from error
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return {
        "item_id": row["item_id"],
        "verdict": row["verdict"],
        "note": row.get("note") or None,
        "recipe": recipe,
        "time": time,
    }


def _good(layout: Layout, files: Files) -> Iterator[str]:
    for part in read_index(layout, files, ["item_id", "status"]):
        yield from (row["item_id"] for row in part.to_pylist() if row["status"] != "failed")


def _sample(layout: Layout) -> str:
    return join(layout.reviews, "sample.json")
