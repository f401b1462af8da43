"""``matteline compare``: two recipes or two nights side by side."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.compare import Comparison
    from pipeline.storage.files import Files
    from pipeline.storage.layout import Layout

VIEWS = (
    *(("photo", "photo", ""), ("mask before", "cutout", "mask"), ("mask after", "cutout_after", "mask")),
    *(("cutout before", "cutout", "checker"), ("cutout after", "cutout_after", "checker")),
    *(("before, least certain place at 1:1", "zoom", "wide"), ("after", "zoom_after", "wide")),
)


def compare(
    one: Annotated[str, typer.Argument(help="The output before: with one recipe, or the recipe's folder.")],
    other: Annotated[str, typer.Argument(help="The output after.")],
    html: Annotated[str | None, typer.Option("--html", help="Write the most changed items side by side here, a page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_root: options.AllowRoot = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Say which items have changed between two outputs, by mask and by quality, and how the quality has drifted."""
    from pipeline.compare import compare as compare_outputs
    from pipeline.storage.index import only_recipe

    files = options.files_of(set_, endpoint_url)
    before, after = only_recipe(one, files), only_recipe(other, files)
    found = compare_outputs(before, after, files)
    if as_json:
        out.print_json(json.dumps(asdict(found)))
    else:
        _print(found)
        if found.drift["drifted"]:
            out.print(f"  drift    {found.drift['said']}", markup=False)
    if html:
        page = _page(before, after, found, allow_root or [], files)
        files.write(files.absolute(html), page)
        if not as_json:
            out.print(f"  page     {html}", markup=False)


def _numbers(found: Comparison) -> list[tuple[str, str]]:
    counts = ("before", "after", "same", "changed", "appeared", "vanished", "newly_failed", "mended", "incomparable")
    said = [(name.replace("_", " "), str(getattr(found, name))) for name in counts]
    drift = (
        ("mean Dice of changed masks", found.mean_dice),
        ("drift of quality, Kolmogorov-Smirnov", found.ks),
        ("stability index", found.psi),
    )
    return said + [(name, f"{value:.4f}") for name, value in drift if value is not None]


def _print(found: Comparison) -> None:
    listing = table("items", ">")
    for name, value in _numbers(found):
        listing.add_row(name, value)
    out.print(listing)
    if found.worst:
        changes = table("most changed", ">Dice", ">quality before", ">after", "note")
        for change in found.worst[:10]:
            cells = [_shown(value) for value in (change.dice, change.quality_before, change.quality_after)]
            changes.add_row(escape(change.item_id), *cells, escape(change.note))
        out.print(changes)


def _page(before: Layout, after: Layout, found: Comparison, allowed: list[str], files: Files) -> bytes:
    from jobs.make_report import columns_of, pictures_of, roots_of
    from pipeline.gallery import entries
    from pipeline.page import render

    ids = [change.item_id for change in found.worst]
    olds, news = (entries(side, files, roots_of(side, files, allowed), ids) for side in (before, after))
    pictures, rows = [], []
    for change, old, new in zip(found.worst, olds, news, strict=True):
        second: dict[str, Any] = pictures_of(new)
        first = pictures_of(old)
        later = {f"{name}_after": second.get(name) for name in ("cutout", "zoom")}
        said = f"Dice {_shown(change.dice)} · quality {_shown(change.quality_before)} → {_shown(change.quality_after)}"
        notes = [*([change.note] if change.note else []), *first["notes"], *second["notes"]]
        pictures.append(first | later | {"notes": list(dict.fromkeys(notes)), "signals": said})
        rows.append(new.row)
    facts = {
        "title": f"{before.recipe_folder} and {after.recipe_folder}",
        "about": f"{before.folder} → {after.folder}",
        "recipe": after.recipe_folder,
        "counts": [[name, getattr(found, name)] for name in ("same", "changed", "appeared", "vanished")],
        "lines": [f"the {len(ids)} most changed items are shown"],
        "histogram": [],
        "tables": [{"title": "Numbers", "columns": ["what", ""], "rows": [list(pair) for pair in _numbers(found)]}],
        "views": VIEWS,
        "judges": [],
    }
    return render(facts, columns_of(rows), pictures)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
