"""Compare two outputs: ``matteline compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.review.compare import Comparison


def compare(
    one: Annotated[str, typer.Argument(help="The earlier output: a folder or a URI.")],
    other: Annotated[str, typer.Argument(help="The later output: a folder or a URI.")],
    html: Annotated[
        str | None, typer.Option("--output", "-o", "--html", help="Write a page with the most changed items side by side here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    allow_root: options.AllowRoot = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Print the items that changed between two outputs, by mask and by quality, and the drift of the quality."""
    from pipeline.output.output import open_output
    from pipeline.review.compare import compare as compare_outputs
    from pipeline.review.html import is_page
    from pipeline.review.pages import compare_page
    from pipeline.storage.overwriting import refuse_foreign

    files = options.files_of(set_, endpoint_url)
    if html:
        refuse_foreign("--output", files.absolute(html), files, (".html", ".htm"), is_page)
    before, after = open_output(one, files), open_output(other, files)
    found = compare_outputs(before, after)
    if as_json:
        out.print_json(json.dumps(asdict(found)))
    else:
        _print(found)
        if found.drift["drifted"]:
            out.print(f"  drift    {found.drift['said']}", markup=False)
    if html:
        files.write(files.absolute(html), compare_page(before, after, found, allow_root or ()))
        if not as_json:
            out.print(f"  page     {html}", markup=False)


def _print(found: Comparison) -> None:
    from pipeline.review.compare import numbers
    from pipeline.review.pages import format_number

    lines = table("items", ">")
    for name, value in numbers(found):
        lines.add_row(name, value)
    out.print(lines)
    if found.worst:
        changes = table("most changed", ">Dice", ">quality before", ">after", "note")
        for change in found.worst[:10]:
            cells = map(format_number, (change.dice, change.quality_before, change.quality_after))
            changes.add_row(change.item_id, *cells, change.note)
        out.print(changes)
