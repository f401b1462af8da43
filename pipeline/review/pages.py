"""What stands on the pages of ``matteline report`` and ``matteline compare``; ``pipeline.review.page`` makes HTML of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import StorageError
from pipeline.output.layout import Layout
from pipeline.output.run_record import RecipeReport, last_run, report_of, speed_of
from pipeline.review.compare import Comparison, numbers
from pipeline.review.gallery import LISTED, SHORT, Entry, entries, listing
from pipeline.review.html import data_uri, render
from pipeline.review.reviews import WORDS, draw_sample, judge_sample
from pipeline.storage.allowlist import AllowList
from pipeline.storage.files import Files
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
UNCALIBRATED = "the quality isn't calibrated: it ranks the items, and is no probability"
REASONS = 12
"""Reasons that are counted on the page, the most frequent ones."""


@dataclass(frozen=True)
class Sample:
    """The sample to draw, as ``sampling.plan`` and ``reviews.draw_sample`` take it."""

    at_most: float
    confidence: float
    allowed: int
    seed: int


def report_page(layout: Layout, files: Files, allowed: Sequence[str], items: int) -> bytes:
    """The page of an output: all items in a list, and the worst ``items`` with pictures.

    Args:
        allowed: roots below which photos may be read, besides the last run's manifest.

    Raises:
        StorageError: the index can't be read.
    """
    found = report_of(layout, files)
    rows, total = listing(layout, files)
    ids = [row["item_id"] for row in rows if row["status"] != "failed"][:items]
    lines = [f"pictures of the {len(ids)} of lowest quality; the others are listed"] if len(ids) < total else []
    lines += [f"{LISTED} of {total} items are listed, the worst ones"] if len(rows) < total else []
    shown = entries(layout, files, roots_of(layout, files, allowed), ids)
    have = {entry.row["item_id"] for entry in shown}
    rest = [row for row in rows if row["item_id"] not in have]
    return render(_facts(found, lines), _columns([*(entry.row for entry in shown), *rest]), map(_pictures, shown))


def sample_page(layout: Layout, files: Files, allowed: Sequence[str], sample: Sample) -> tuple[bytes, str]:
    """Draw a sample, and make a page of it alone.

    Returns:
        the page, and what is to be said of the sample.

    Raises:
        ConfigError: no such sample can be drawn.
        StorageError: the index can't be read, or the sample can't be written.
    """
    found = report_of(layout, files)
    asked = {"at_most": sample.at_most, "confidence": sample.confidence, "allowed": sample.allowed}
    ids = draw_sample(
        layout, files, asked, sample.seed, sum(found.summary.counts.values()) - found.summary.counts.get("failed", 0)
    )
    judged = judge_sample(layout, files)
    said = f"a sample of {len(ids)}, drawn with seed {sample.seed}" + (f"; {judged.sentence}" if judged else "")
    shown = entries(layout, files, roots_of(layout, files, allowed), ids)
    return render(_facts(found, [said]), _columns([entry.row for entry in shown]), map(_pictures, shown)), said


def compare_page(before: Layout, after: Layout, found: Comparison, allowed: Sequence[str], files: Files) -> bytes:
    """The most changed items of two outputs side by side.

    Raises:
        StorageError: an index can't be read.
    """
    ids = [change.item_id for change in found.worst]
    places = {change.item_id: change.place for change in found.worst if change.place is not None}
    olds, news = (entries(side, files, roots_of(side, files, allowed), ids, places) for side in (before, after))
    pictures, rows = [], []
    for change, old, new in zip(found.worst, olds, news, strict=True):
        first, second = _pictures(old), _pictures(new)
        later = {f"{name}_after": second.get(name) for name in ("cutout", "zoom")}
        said = f"Dice {shown(change.dice)} · quality {shown(change.quality_before)} → {shown(change.quality_after)}"
        notes = [*([change.note] if change.note else []), *first["notes"], *second["notes"]]
        pictures.append(first | later | {"notes": list(dict.fromkeys(notes)), "signals": said})
        rows.append(new.row)
    facts = {
        "title": f"{before.recipe_folder} and {after.recipe_folder}",
        "about": f"{before.folder} → {after.folder}",
        "recipe": after.recipe_folder,
        "folder": after.folder,
        "counts": [[name, getattr(found, name)] for name in ("same", "changed", "appeared", "vanished")],
        "lines": [f"the {len(ids)} most changed items are shown", *_drift(found.drift)],
        "histogram": [],
        "tables": [{"title": "Numbers", "columns": ["what", ""], "rows": [list(pair) for pair in numbers(found)]}],
        "views": COMPARED,
        "judges": [],
    }
    return render(facts, _columns(rows), pictures)


def roots_of(layout: Layout, files: Files, allowed: Sequence[str]) -> AllowList:
    """Where photos may be read: below the manifest of the last run, and what the settings and options name.

    Raises:
        ConfigError: a root is no path or URI.
    """
    storage = files.storage.model_copy(update={"allow_roots": (*files.storage.allow_roots, *allowed)})
    manifest = (last_run(layout, files) or {}).get("manifest")
    if not isinstance(manifest, str) or not manifest:
        return AllowList.of(storage)
    try:
        base = manifest if files.is_folder(manifest) else parent(manifest)
    except StorageError:
        base = parent(manifest)
    return AllowList.of(storage, base)


def shown(value: float | None) -> str:
    """A number, or a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as the page wants them: column by column."""
    return {
        "item_id": [row["item_id"] for row in rows],
        "status": [row["status"] for row in rows],
        "quality": [_number(row["quality"]) for row in rows],
        "reasons": [row["reasons"] or [] for row in rows],
        "tags": [row["tags"] for row in rows],
        "detail": [f"{row['error_code']}: {row['error_detail'] or ''}"[:SHORT] if row["error_code"] else "" for row in rows],
    }


def _pictures(entry: Entry) -> dict[str, Any]:
    """One item's pictures as the page wants them."""
    made: dict[str, Any] = {"notes": entry.notes, "signals": _signals(entry.row["signals"])}
    if (views := entry.views) is not None:
        made |= {"width": views.width, "height": views.height, "contour": views.contour}
        made |= {name: data_uri(getattr(views, name)) for name in ("photo", "cutout", "zoom")}
    return made


def _facts(found: RecipeReport, lines: Sequence[str]) -> dict[str, Any]:
    summary, run, layout = found.summary, found.last_run or {}, found.layout
    about = f"run {run['run_id']}: {run['outcome']} in {speed_of(run)}" if run else ""
    failures = [[code, one.count, f"{one.item_id}: {one.detail}"] for code, one in sorted(summary.failures.items())]
    reasons = sorted(summary.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:REASONS]
    tables = [
        {"title": "Failures", "columns": ["code", "items", "for example"], "rows": failures},
        {"title": "Reasons", "columns": ["reason", "items"], "rows": [list(pair) for pair in reasons]},
    ]
    return {
        "title": layout.recipe_folder,
        "about": about,
        "recipe": layout.recipe_folder,
        "folder": layout.folder,
        "counts": [[status, summary.counts.get(status, 0)] for status in ("ok", "review", "failed")],
        "lines": [*lines, *_drift(run.get("drift")), *([] if summary.calibrated else [UNCALIBRATED])],
        "histogram": list(summary.quality_histogram),
        "tables": [table for table in tables if table["rows"]],
        "views": VIEWS,
        "judges": list(WORDS),
    }


def _drift(found: Mapping[str, Any] | None) -> list[str]:
    return [f"drift: {found['said']}"] if found and found["drifted"] else []


def _signals(signals: Mapping[str, Any] | None) -> str:
    """Measured numbers and raised flags in a line."""
    said = []
    for name, value in (signals or {}).items():
        if isinstance(value, bool):
            said += [name] if value else []
        elif value is not None:
            said.append(f"{name} {value:.3g}")
    return " · ".join(said)


def _number(quality: float | None) -> float | None:
    return None if quality is None or math.isnan(quality) else round(quality, 4)
