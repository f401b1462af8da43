"""The content of a page as JSON: its head, its rows and the pictures of an item. ``review.html`` renders it.

All texts for people are made here or in ``quality.reasons``; the page's script only puts them in their places.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import ITEM_ERRORS, ItemRefused
from pipeline.output.layout import is_inside
from pipeline.output.output import Output
from pipeline.output.run_record import RecipeReport, speed_of
from pipeline.output.settings import recipe_label
from pipeline.output.summary import Summary
from pipeline.quality.reasons import REASONS
from pipeline.review.entries import MAX_CHARS
from pipeline.review.entry import Entry
from pipeline.review.html import data_uri
from pipeline.review.pictures import MissingPictures
from pipeline.review.reviews import VERDICTS
from pipeline.review.videos import PLAYED
from pipeline.schema import SIGNALS, STATUSES
from pipeline.storage import uris
from pipeline.types import Box

VIEWS = (
    *(("Photo", "photo", "box"), ("Outline", "photo", "outline"), ("Mask", "cutout", "mask")),
    *(("Cutout", "cutout", "ground"), ("Least certain place: photo, mask, cutout", "zoom", "wide")),
)
"""Pictures of an item: caption, key in its pictures, and look (a CSS class). Renditions follow the cutout."""

STATUS_WORDS = {"ok": "ok", "review": "to review", "failed": "failed"}
UNCALIBRATED = "The quality puts the items in order. It is not a probability, since it is not calibrated for this model."
MAX_REASONS = 12
"""Reasons on the page, the most frequent ones."""


def report_head(report: RecipeReport, columns: Sequence[str], missing: Sequence[MissingPictures]) -> dict[str, Any]:
    """Return what the page of an output says about all of it.

    Args:
        report: The output.
        columns: Names of the manifest's columns that are shown.
        missing: The missing pictures.
    """
    summary, run, output = report.summary, report.last_run or {}, report.output
    reasons = sorted(summary.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_REASONS]
    failures = [[code, one.count, f"{one.item_id}: {one.detail}"[:MAX_CHARS]] for code, one in sorted(summary.failures.items())]
    return page_head(
        **_names(output, run),
        counts=[[status, summary.counts.get(status, 0)] for status in STATUSES],
        calibrated=summary.calibrated,
        lines=[*drift_line(run.get("drift")), *_certainty(summary)],
        missing=[one.describe() for one in missing],
        histogram=list(summary.quality_histogram),
        reasons=[list(pair) for pair in reasons],
        failures=failures,
        columns=list(columns),
        verdicts=list(VERDICTS),
    )


def page_head(title: str, folder: str, **facts: Any) -> dict[str, Any]:
    """Return the head of any page: these facts, and nothing where there are none.

    Args:
        title: The page's title.
        folder: What the page is about: the browser keeps reviews under this name.
        facts: Further facts, by the names below.
    """
    nothing: dict[str, Any] = {
        **{"tab": title, "date": "", "about": [], "recipe": "", "base": None},
        **{"counts": [], "calibrated": False, "lines": [], "histogram": [], "reasons": [], "failures": [], "tables": []},
        **{"missing": [], "missing_rows": [], "columns": [], "views": VIEWS, "verdicts": [], "sample": None},
    }
    return nothing | words() | {"title": title, "folder": folder} | facts


def words() -> dict[str, Any]:
    """Return the sentences of the index's own words: statuses, reasons, error codes and signals."""
    return {
        "words": STATUS_WORDS | REASONS | {error.code: error.about for error in ITEM_ERRORS},
        "signals": {field.name: field.metadata[b"about"].decode() for field in SIGNALS},
    }


def rows_by_column(rows: Sequence[Mapping[str, Any]], columns: int = 0) -> dict[str, list[Any]]:
    """Return the rows column by column. ``columns`` is the number of the manifest's columns that are shown."""
    return {
        "item_id": [row["item_id"] for row in rows],
        "status": [row["status"] for row in rows],
        "version": [row["version"] for row in rows],
        "quality": [_number(row["quality"]) for row in rows],
        "reasons": [[reason for reason in row["reasons"] or () if reason] for row in rows],
        "tags": [row["tags"] for row in rows],
        "code": [row["error_code"] or "" for row in rows],
        "detail": [(row["error_detail"] or "")[:MAX_CHARS] for row in rows],
        "shown": [[row["shown"][at] for row in rows] for at in range(columns)],
    }


def pictures_of(entry: Entry) -> dict[str, Any]:
    """Return the pictures of one item as data URIs, and what belongs to them."""
    row = entry.row
    content: dict[str, Any] = {
        "missing": [list(one) for one in entry.missing],
        "signals": _signals(row["signals"]),
        "photo_uri": uris.redact(row["image_uri"] or "")[:MAX_CHARS],
        "files": {kind: _inside(row[f"{kind}_path"]) for kind in ("mask", "cutout")},
        "renditions": [],
    }
    if work := describe_work(row):
        content["work"] = work
    if (facts := row.get("video_facts")) is not None:
        content |= {"about": describe_video(facts), "play": None, "linked": _played_file(facts)}
    if (played := entry.played) is not None:
        content["play"] = {"src": data_uri(played.data, played.kind), "width": played.width, "height": played.height}
    if (box := _box(row)) is not None:
        content |= {"box": [round(value, 2) for value in box], "full": [row["width"], row["height"]], "found": not row["box"]}
    if (views := entry.views) is not None:
        content |= {"width": views.width, "height": views.height, "contour": views.contour}
        content |= {name: data_uri(getattr(views, name)) for name in ("photo", "cutout", "zoom")}
    for one in entry.renditions:
        made: dict[str, Any] = {"name": one.name, "file": _inside(one.path), "note": one.note}
        if one.picture is not None:
            made |= {"width": one.picture.width, "height": one.picture.height, "src": data_uri(one.picture.data)}
        content["renditions"].append(made)
    return content


def describe_work(row: Mapping[str, Any]) -> str:
    """Return what the detector found and what each model thought, in one line; "" for a single model without a detector.

    >>> describe_work({"detected_label": "bird", "detector_score": 0.62})
    "found 'bird' 0.62"
    """
    label, score, looks = row.get("detected_label"), row.get("detector_score"), row.get("models") or ()
    found = [f"found {label!r} {_two(score)}"] if label else []
    seen = [" → ".join(f"{one['model']} {_two(one['quality'])}" for one in looks)] if looks else []
    agreed = f", agreement {_two(row['agreement'])}" if row.get("agreement") is not None else ""
    return ("; ".join([*found, *seen]) + agreed)[:MAX_CHARS]


def _two(number: float | None) -> str:
    return "?" if number is None else f"{number:.2f}"


def describe_video(facts: Mapping[str, Any]) -> str:
    """Return the numbers of a video in one line."""
    flicker = "" if facts["flicker"] is None else f", flicker {facts['flicker']:.3f}"
    worst = f", worst moment at {facts['worst'][0]['at_s']:.1f} s" if facts["worst"] else ""
    notes = "".join(f"; {one}" for one in facts["notes"] or ())
    return f"{facts['frames']:,} frames, {facts['seconds']:.1f} s{worst}{flicker}{notes}"[:MAX_CHARS]


def _played_file(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return path, width and height of the file that the page plays; None without one inside the output."""
    files = {one["name"]: one for one in facts["files"] or ()}
    file = next((files[name] for name in PLAYED if name in files), None)
    path = None if file is None else _inside(file["path"])
    return None if file is None or path is None else {"path": path, "width": file["width"], "height": file["height"]}


def link_base(output: Output, page: str) -> str | None:
    """Return the output's address as a relative link from a page; None if a page there cannot link to it.

    ``page`` is the page's absolute path or URI.
    """
    folder = uris.parent(page)
    if folder == output.folder:
        return ""
    if uris.scheme(folder) or uris.scheme(output.folder):
        return None
    return f"{Path(os.path.relpath(output.folder, folder)).as_posix()}/"


def drift_line(found: Mapping[str, Any] | None) -> list[str]:
    """Return the sentence about the drift of a run record, or nothing."""
    return [f"Drift: {found['said']}."] if found and found["drifted"] else []


def _names(output: Output, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return title, date and provenance: manifest, output, run."""
    manifest, folder = uris.redact(run.get("manifest") or ""), output.folder
    title = f"{uris.name(manifest)} → {uris.name(folder)}" if manifest else uris.name(folder)
    date, day = _dates(run.get("finished_at"))
    run_line = f"{run['run_id']}: {run['outcome']} in {speed_of(run)}" if run else ""
    about = [
        ("Manifest", manifest),
        ("Output", folder),
        ("Finished", date),
        ("Run", run_line),
        ("Recipe", recipe_label(output)),
    ]
    return {
        "title": title,
        "tab": f"{title} · {day}" if day else title,
        "date": date,
        "about": [[name, text] for name, text in about if text],
        "recipe": recipe_label(output),
        "folder": folder,
    }


def _dates(moment: str | None) -> tuple[str, str]:
    """Return a time of a run record for people and for a title: ``30 November 2026, 05:13 UTC`` and ``2026-11-30``."""
    try:
        time = datetime.fromisoformat(moment or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return "", ""
    return f"{time.day} {time:%B %Y, %H:%M} UTC", f"{time:%Y-%m-%d}"


def _certainty(summary: Summary) -> list[str]:
    if not summary.calibrated:
        return [UNCALIBRATED] if summary.quality_histogram else []
    if not (expected := summary.expected).items:
        return []
    low, high = expected.interval()
    return [f"Of the {expected.items:,} ok items, about {expected.mean:,.0f} ({low:,} to {high:,}) may not be good enough."]


def _signals(signals: Mapping[str, Any] | None) -> list[list[str]]:
    """Return names and values of the signals that were measured. A flag is listed only if it is set."""
    measured = ((name, value) for name, value in (signals or {}).items() if value is not None and value is not False)
    return [[name, "yes" if value is True else f"{value:.3g}"] for name, value in measured]


def _box(row: Mapping[str, Any]) -> Box | None:
    """Return the user's box, else the detector's, if the size of the photo is known; None for one that no run accepts."""
    box = row["box"] or row.get("detected_box")
    if not box or min(row["width"] or 0, row["height"] or 0) < 1:
        return None
    try:
        return Box.parse(box)
    except ItemRefused:
        return None


def _inside(path: str | None) -> str | None:
    return path if path and is_inside(path) else None


def _number(quality: float | None) -> float | None:
    return None if quality is None or not math.isfinite(quality) else round(quality, 4)
