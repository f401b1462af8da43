"""``matteline report``: an output as one page to look through, and the sample to judge it by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.console import out

if TYPE_CHECKING:
    from pipeline.gallery import Entry
    from pipeline.report import RecipeReport
    from pipeline.storage.files import Files
    from pipeline.storage.layout import Layout
    from pipeline.storage.roots import Roots

ITEMS = 300
VIEWS = (
    *(("photo", "photo", ""), ("contour", "photo", "outline"), ("mask", "cutout", "mask"), ("on white", "cutout", "white")),
    *(("on black", "cutout", "black"), ("on a checkerboard", "cutout", "checker")),
    ("least certain place at 1:1: photo, mask, cutout", "zoom", "wide"),
)


def report(
    output: Annotated[str, typer.Argument(help="A run's output with one recipe, or the recipe's folder: a path or a URI.")],
    html: Annotated[
        str | None, typer.Option("--html", help="Where the page goes; absent, report.html in the recipe's folder.")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=0, max=5000, help="How many of the worst items get pictures.")] = ITEMS,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw a sample to judge the whole output by, and show that.")
    ] = False,
    at_most: Annotated[
        float, typer.Option("--at-most", help="With --sample: the share of bad items that is tolerable.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option("--confidence", help="With --sample: how sure the verdict is to be.")] = 0.95,
    allowed: Annotated[int, typer.Option("--allowed", min=0, help="With --sample: bad ones in it that are forgiven.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="With --sample: another number draws other items.")] = 0,
    allow_root: options.AllowRoot = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Write one HTML page: numbers, failures, and the worst items with pictures, to be judged."""
    from pipeline.gallery import LISTED, entries, listing
    from pipeline.page import render
    from pipeline.report import report_of
    from pipeline.storage.index import only_recipe
    from pipeline.storage.uris import join
    from pipeline.verdicts import draw_sample, judge_sample

    files = options.files_of(set_, endpoint_url)
    layout = only_recipe(output, files)
    found = report_of(layout, files)
    lines: list[str] = []
    rows, total = listing(layout, files)
    if sample:
        asked = {"at_most": at_most, "confidence": confidence, "allowed": allowed}
        ids = draw_sample(layout, files, asked, seed)
        judged = judge_sample(layout, files)
        lines.append(f"a sample of {len(ids)}, drawn with seed {seed}" + (f"; {judged.sentence}" if judged else ""))
        wanted = set(ids)
        rows = [row for row in rows if row["item_id"] in wanted]
    else:
        ids = [row["item_id"] for row in rows if row["status"] != "failed"][:items]
        lines.append(f"pictures of the {len(ids)} of lowest quality; the others are listed" if len(ids) < total else "")
        lines.append(f"{LISTED} of {total} items are listed, the worst ones" if len(rows) < total else "")
    shown = entries(layout, files, roots_of(layout, files, allow_root or ()), ids)
    have = {entry.row["item_id"] for entry in shown}
    ordered = [entry.row for entry in shown] + [row for row in rows if row["item_id"] not in have]
    page = render(_facts(found, [line for line in lines if line]), columns_of(ordered), [pictures_of(entry) for entry in shown])
    target = files.absolute(html) if html else join(layout.folder, "report.html")
    files.write(target, page)
    for line in lines[: 1 if sample else 0]:
        out.print(line, markup=False)
    out.print(f"  report   {html or target}, {len(page) / 2**20:.1f} MiB", markup=False)


def roots_of(layout: Layout, files: Files, allowed: list[str] | tuple[str, ...]) -> Roots:
    """Where photos may be read: below the manifest of the last run, and what the settings and options name."""
    from pipeline.errors import StorageError
    from pipeline.report import last_run
    from pipeline.storage.roots import Roots
    from pipeline.storage.uris import parent

    storage = files.storage.model_copy(update={"allow_roots": (*files.storage.allow_roots, *allowed)})
    manifest = (last_run(layout, files) or {}).get("manifest")
    if not isinstance(manifest, str) or not manifest:
        return Roots.of(storage)
    try:
        base = manifest if files.is_folder(manifest) else parent(manifest)
    except StorageError:
        base = parent(manifest)
    return Roots.of(storage, base)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as the page wants them: column by column."""
    from pipeline.gallery import SHORT

    return {
        "item_id": [row["item_id"] for row in rows],
        "status": [row["status"] for row in rows],
        "quality": [_number(row["quality"]) for row in rows],
        "reasons": [row["reasons"] or [] for row in rows],
        "tags": [row["tags"] for row in rows],
        "detail": [f"{row['error_code']}: {row['error_detail'] or ''}"[:SHORT] if row["error_code"] else "" for row in rows],
    }


def pictures_of(entry: Entry) -> dict[str, Any]:
    """One item's pictures as the page wants them."""
    from pipeline.page import data_uri

    made: dict[str, Any] = {"notes": entry.notes, "signals": _signals(entry.row["signals"])}
    if (views := entry.views) is not None:
        made |= {"width": views.width, "height": views.height, "contour": views.contour}
        made |= {name: data_uri(getattr(views, name)) for name in ("photo", "cutout", "zoom")}
    return made


def _facts(found: RecipeReport, lines: list[str]) -> dict[str, Any]:
    from pipeline.verdicts import WORDS

    summary, run, layout = found.summary, found.last_run or {}, found.layout
    about = f"run {run['run_id']}: {run['outcome']} in {run['seconds']:g} s, {run['items_per_s']:g} items/s" if run else ""
    failures = [[code, one.count, f"{one.item_id}: {one.detail}"] for code, one in sorted(summary.failures.items())]
    reasons = sorted(summary.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:12]
    tables = [{"title": "Failures", "columns": ["code", "items", "for example"], "rows": failures}] if failures else []
    tables += (
        [{"title": "Reasons", "columns": ["reason", "items"], "rows": [list(pair) for pair in reasons]}] if reasons else []
    )
    return {
        "title": layout.recipe_folder,
        "about": about,
        "recipe": layout.recipe_folder,
        "counts": [[status, summary.counts.get(status, 0)] for status in ("ok", "review", "failed")],
        "lines": lines,
        "histogram": list(summary.quality_histogram),
        "tables": tables,
        "views": VIEWS,
        "judges": list(WORDS),
    }


def _signals(signals: dict[str, Any] | None) -> str:
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
