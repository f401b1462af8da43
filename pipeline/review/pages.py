"""The content of the pages of ``matteline report`` and ``matteline compare``. ``review.html`` renders it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import StorageError
from pipeline.output.output import Output
from pipeline.output.run_record import RecipeReport, last_run, report_of, speed_of
from pipeline.output.settings import recipe_label
from pipeline.output.summary import Summary
from pipeline.review.compare import Comparison, numbers
from pipeline.review.entries import MAX_CHARS, MAX_LISTED, Entry, list_rows, load_entries
from pipeline.review.html import data_uri, render
from pipeline.review.reviews import VERDICTS, draw_sample, review_sample
from pipeline.schema import STATUSES
from pipeline.storage.allowlist import AllowList
from pipeline.storage.uris import name as last_part
from pipeline.storage.uris import parent

VIEWS = (
    *(("photo", "photo", ""), ("contour", "photo", "outline"), ("mask", "cutout", "mask"), ("on white", "cutout", "white")),
    *(("on black", "cutout", "black"), ("on a checkerboard", "cutout", "checker")),
    ("least certain place at 1:1: photo, mask, cutout", "zoom", "wide"),
)
COMPARED = (
    *(("mask before", "cutout", "mask"), ("mask after", "cutout_after", "mask")),
    *(("cutout before", "cutout", "checker"), ("cutout after", "cutout_after", "checker"), ("photo", "photo", "")),
    *(("before, most changed place at 1:1", "zoom", "wide"), ("after, the same place", "zoom_after", "wide")),
)
UNCALIBRATED = "The quality is not calibrated: it ranks the items and is not a probability."
MAX_REASONS = 12
"""Reasons in the page's table, the most frequent ones."""


@dataclass(frozen=True)
class Sample:
    """The sample to draw; see ``sampling.plan`` and ``reviews.draw_sample``."""

    at_most: float
    confidence: float
    allowed: int
    seed: int


def report_page(output: Output, allow_roots: Sequence[str], items: int) -> bytes:
    """Return the page of an output: all items as a list, and the worst ``items`` with pictures.

    Photos may be read from ``allow_roots`` and from the folder of the last run's manifest.

    Raises:
        StorageError: The index cannot be read.
    """
    report = report_of(output)
    rows, total = list_rows(output)
    ids = [row["item_id"] for row in rows if row["status"] != "failed"][:items]
    lines = [f"The {len(ids)} items of lowest quality have pictures; the others are listed."] if len(ids) < total else []
    lines += [f"The worst {MAX_LISTED} of {total} items are listed."] if len(rows) < total else []
    entries = load_entries(output, photo_roots(output, allow_roots), ids)
    loaded = {entry.row["item_id"] for entry in entries}
    rest = [row for row in rows if row["item_id"] not in loaded]
    return render(_facts(report, lines), _columns([*(entry.row for entry in entries), *rest]), map(_pictures, entries))


def sample_page(output: Output, allow_roots: Sequence[str], sample: Sample) -> tuple[bytes, str]:
    """Draw a sample and return its page, and a message about the sample.

    Raises:
        ConfigError: No such sample can be drawn.
        StorageError: The index cannot be read, or the sample cannot be written.
    """
    report = report_of(output)
    settings = asdict(sample)
    seed, counts = settings.pop("seed"), report.summary.counts
    ids = draw_sample(output, settings, seed, sum(counts.values()) - counts.get("failed", 0))
    result = review_sample(output)
    message = f"a sample of {len(ids)}, drawn with seed {seed}" + (f"; {result.message}" if result else "")
    entries = load_entries(output, photo_roots(output, allow_roots), ids)
    page = render(_facts(report, [message]), _columns([entry.row for entry in entries]), map(_pictures, entries))
    return page, message


def compare_page(before: Output, after: Output, found: Comparison, allow_roots: Sequence[str]) -> bytes:
    """Return a page with the most changed items of two outputs side by side.

    Raises:
        StorageError: An index cannot be read.
    """
    ids = [change.item_id for change in found.worst]
    windows = {change.item_id: change.place for change in found.worst if change.place is not None}
    olds, news = (load_entries(side, photo_roots(side, allow_roots), ids, windows) for side in (before, after))
    pictures, rows = [], []
    for change, old, new in zip(found.worst, olds, news, strict=True):
        first, second = _pictures(old), _pictures(new)
        later = {f"{name}_after": second.get(name) for name in ("cutout", "zoom")}
        dice, quality, now = map(format_number, (change.dice, change.quality_before, change.quality_after))
        notes = dict.fromkeys([*([change.note] if change.note else []), *first["notes"], *second["notes"]])
        pictures.append(first | later | {"notes": list(notes), "signals": f"Dice {dice} · quality {quality} → {now}"})
        rows.append(new.row)
    facts = {
        "title": f"{last_part(before.folder)} and {last_part(after.folder)}",
        "about": f"{before.folder} → {after.folder}",
        "recipe": recipe_label(after),
        "folder": after.folder,
        "counts": [[name, getattr(found, name)] for name in ("same", "changed", "appeared", "vanished")],
        "lines": [f"The {len(ids)} most changed items are shown.", *_drift(found.drift)],
        "histogram": [],
        "tables": [{"title": "Numbers", "columns": ["number", "value"], "rows": [list(pair) for pair in numbers(found)]}],
        "views": COMPARED,
        "verdicts": [],
    }
    return render(facts, _columns(rows), pictures)


def photo_roots(output: Output, allow_roots: Sequence[str]) -> AllowList:
    """Return the roots from which photos may be read: the folder of the last run's manifest, the settings and the options.

    Raises:
        ConfigError: A root is not a path or URI.
    """
    files = output.files
    storage = files.storage.model_copy(update={"allow_roots": (*files.storage.allow_roots, *allow_roots)})
    manifest = (last_run(output) or {}).get("manifest")
    if not isinstance(manifest, str) or not manifest:
        return AllowList.of(storage)
    try:
        base = manifest if files.is_folder(manifest) else parent(manifest)
    except StorageError:
        base = parent(manifest)
    return AllowList.of(storage, base)


def format_number(value: float | None) -> str:
    """Format a number with three digits, or a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the rows column by column."""
    return {
        "item_id": [row["item_id"] for row in rows],
        "status": [row["status"] for row in rows],
        "quality": [_number(row["quality"]) for row in rows],
        "reasons": [row["reasons"] or [] for row in rows],
        "tags": [row["tags"] for row in rows],
        "detail": [
            f"{row['error_code']}: {row['error_detail'] or ''}"[:MAX_CHARS] if row["error_code"] else "" for row in rows
        ],
    }


def _pictures(entry: Entry) -> dict[str, Any]:
    """Return the pictures of one item as data URIs."""
    pictures: dict[str, Any] = {"notes": entry.notes, "signals": _signals(entry.row["signals"])}
    if (views := entry.views) is not None:
        pictures |= {"width": views.width, "height": views.height, "contour": views.contour}
        pictures |= {name: data_uri(getattr(views, name)) for name in ("photo", "cutout", "zoom")}
    return pictures


def _facts(report: RecipeReport, lines: Sequence[str]) -> dict[str, Any]:
    summary, run, layout = report.summary, report.last_run or {}, report.output.layout
    about = f"run {run['run_id']}: {run['outcome']} in {speed_of(run)}" if run else ""
    failures = [[code, one.count, f"{one.item_id}: {one.detail}"] for code, one in sorted(summary.failures.items())]
    reasons = sorted(summary.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_REASONS]
    tables = [
        {"title": "Failures", "columns": ["code", "items", "example"], "rows": failures},
        {"title": "Reasons", "columns": ["reason", "items"], "rows": [list(pair) for pair in reasons]},
    ]
    return {
        "title": last_part(layout.folder),
        "about": about,
        "recipe": recipe_label(report.output),
        "folder": layout.folder,
        "counts": [[status, summary.counts.get(status, 0)] for status in STATUSES],
        "lines": [*lines, *_drift(run.get("drift")), *_certainty(summary)],
        "histogram": list(summary.quality_histogram),
        "tables": [table for table in tables if table["rows"]],
        "views": VIEWS,
        "verdicts": list(VERDICTS),
    }


def _certainty(summary: Summary) -> list[str]:
    expected = summary.expected.describe()
    return [*([expected] if expected else []), *([] if summary.calibrated else [UNCALIBRATED])]


def _drift(found: Mapping[str, Any] | None) -> list[str]:
    return [f"drift: {found['said']}"] if found and found["drifted"] else []


def _signals(signals: Mapping[str, Any] | None) -> str:
    """Format the signals and the flags that are set as one line."""
    words = []
    for name, value in (signals or {}).items():
        if isinstance(value, bool):
            words += [name] if value else []
        elif value is not None:
            words.append(f"{name} {value:.3g}")
    return " · ".join(words)


def _number(quality: float | None) -> float | None:
    return None if quality is None or math.isnan(quality) else round(quality, 4)
