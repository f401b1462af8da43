"""The pages of ``matteline report`` and ``matteline compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.output.output import Output
from pipeline.output.photos import photo_roots
from pipeline.output.run_record import RecipeReport, report_of
from pipeline.output.settings import recipe_label
from pipeline.review.compare import Comparison, numbers
from pipeline.review.content import drift_line, link_base, page_head, pictures_of, report_head, rows_by_column
from pipeline.review.entries import MAX_LISTED, find_rows, list_rows, shown_columns
from pipeline.review.html import render
from pipeline.review.pictures import MissingPictures, load_entries, missing_pictures
from pipeline.review.reviews import draw_sample, review_sample
from pipeline.storage.uris import name as last_part

COMPARED = (
    *(("Mask before", "cutout", "mask"), ("Mask after", "cutout_after", "mask")),
    *(("Cutout before", "cutout", "ground"), ("Cutout after", "cutout_after", "ground"), ("Photo", "photo", "box")),
    *(("Before, most changed place at 1:1", "zoom", "wide"), ("After, the same place", "zoom_after", "wide")),
)


@dataclass(frozen=True)
class Sample:
    """The sample to draw; see ``sampling.plan`` and ``reviews.draw_sample``."""

    at_most: float
    confidence: float
    allowed: int
    seed: int


@dataclass(frozen=True)
class Options:
    """Content of a report page."""

    page: str
    """Absolute path or URI of the page. If it can, the page links to the output's files."""
    allow_roots: Sequence[str] = ()
    """Roots from which photos may be read, beside the folder of the last run's manifest."""
    show: Sequence[str] | None = None
    """Columns of the manifest to show; None: the first ones."""


@dataclass(frozen=True)
class Page:
    """A page, and what the command says about it."""

    html: bytes
    pictured: int
    """Items with pictures."""
    missing: list[MissingPictures] = field(default_factory=list)
    message: str = ""


def report_page(output: Output, items: int, options: Options) -> Page:
    """Return the page of an output: all items as a list, and the worst ``items`` with pictures.

    Raises:
        ConfigError: A column to show does not exist.
        StorageError: The index cannot be read.
    """
    columns = shown_columns(output, options.show)
    rows, total = list_rows(output, list(columns))
    ids = [row["item_id"] for row in rows if row["status"] != "failed"][:items]
    made = total - sum(row["status"] == "failed" for row in rows)
    lines = (
        [f"The {len(ids):,} items of lowest quality have pictures; the others are listed below them."]
        if len(ids) < made
        else []
    )
    lines += [f"The worst {MAX_LISTED:,} of {total:,} items are listed."] if len(rows) < total else []
    return _page(report_of(output), options, rows, ids, lines, columns)


def sample_page(output: Output, sample: Sample, options: Options) -> Page:
    """Draw a sample and return its page, which shows its items only.

    Raises:
        ConfigError: No such sample can be drawn, or a column to show does not exist.
        StorageError: The index cannot be read, or the sample cannot be written.
    """
    columns, report, settings = shown_columns(output, options.show), report_of(output), asdict(sample)
    seed, counts = settings.pop("seed"), report.summary.counts
    ids = draw_sample(output, settings, seed, sum(counts.values()) - counts.get("failed", 0))
    result = review_sample(output)
    assert result is not None, "the sample was written a moment ago"
    facts = {
        "draw": result.plan.draw,
        "allowed": result.plan.allowed,
        "text": result.plan.describe(),
        "result": result.message if result.reviewed else "",
    }
    page = _page(report, options, find_rows(output, ids, list(columns)), ids, [], columns, sample=facts)
    return replace(page, message=f"drawn with seed {seed}; {result.message}")


def compare_page(before: Output, after: Output, found: Comparison, allow_roots: Sequence[str]) -> bytes:
    """Return a page with the most changed items of two outputs side by side.

    Raises:
        StorageError: An index cannot be read.
    """
    ids = [change.item_id for change in found.worst]
    windows = {change.item_id: change.place for change in found.worst if change.place is not None}
    olds, news = (load_entries(side, photo_roots(side, allow_roots), ids, windows) for side in (before, after))
    pictures = []
    for change, old, new in zip(found.worst, olds, news, strict=True):
        first, second = pictures_of(old), pictures_of(new)
        later = {f"{name}_after": second.get(name) for name in ("cutout", "zoom")}
        dice, quality, now = map(format_number, (change.dice, change.quality_before, change.quality_after))
        missing = [list(pair) for pair in dict.fromkeys(map(tuple, [*first["missing"], *second["missing"]]))]
        about = {"missing": missing, "note": change.note, "changed": f"Dice {dice} · quality {quality} → {now}"}
        pictures.append(first | later | about | {"signals": [], "files": {}, "renditions": []})
    facts = page_head(
        f"{last_part(before.folder)} and {last_part(after.folder)}",
        after.folder,
        about=[["Before", before.folder], ["After", after.folder]],
        recipe=recipe_label(after),
        counts=[[name, getattr(found, name)] for name in ("same", "changed", "appeared", "vanished")],
        lines=[f"The {len(ids)} most changed items are shown.", *drift_line(found.drift)],
        tables=[{"title": "Numbers", "columns": ["number", "value"], "rows": [list(pair) for pair in numbers(found)]}],
        views=COMPARED,
    )
    return render(facts, rows_by_column(find_rows(after, ids)), pictures)


def format_number(value: float | None) -> str:
    """Format a number with three digits, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def _page(
    report: RecipeReport,
    options: Options,
    rows: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    lines: Sequence[str],
    columns: Mapping[str, str],
    sample: Mapping[str, Any] | None = None,
) -> Page:
    """Load the pictures of these ids and render the page: items with pictures first, then the other rows."""
    output = report.output
    entries = load_entries(output, photo_roots(output, options.allow_roots), ids)
    missing, by_id = missing_pictures(entries), {row["item_id"]: row for row in rows}
    pictured = [by_id[entry.row["item_id"]] for entry in entries]
    loaded = {row["item_id"] for row in pictured}
    ordered = [*pictured, *(row for row in rows if row["item_id"] not in loaded)]
    facts = report_head(report, list(columns.values()), missing)
    facts |= {
        "lines": [*lines, *facts["lines"]],
        "missing_rows": [number for number, entry in enumerate(entries) if entry.missing],
        "sample": sample,
        "base": link_base(output, options.page),
    }
    html = render(facts, rows_by_column(ordered, len(columns)), (pictures_of(entry) for entry in entries))
    return Page(html, len(entries), missing)
