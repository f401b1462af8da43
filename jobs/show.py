"""``matteline show``: print what is in an output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out, print_report

if TYPE_CHECKING:
    from pipeline.output.layout import Layout
    from pipeline.storage.files import Files

SHEET_ITEMS = 24


def show(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    sheet: Annotated[
        str | None,
        typer.Option("--sheet", help="Write a contact sheet here, a JPEG: photo, mask and cutout, worst quality first."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but where the sheet is.")] = False,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Print what is in an output: items by status, failures with examples, quality, the last run."""
    from pipeline.errors import ConfigError
    from pipeline.output.run_record import read_report

    files = options.files_of(set_, endpoint_url)
    where = files.absolute(output)
    reports = read_report(where, files)
    if not reports:
        raise ConfigError(f"no results under {where}; a run writes them there: matteline run --output {output}")
    if as_json:
        facts = [{"folder": r.layout.folder, "counts": r.summary.counts, "last_run": r.last_run} for r in reports]
        out.print_json(json.dumps(facts))
    elif not quiet:
        print_report(reports)
    if sheet:
        _write_sheet(reports[-1].layout, files.absolute(sheet), files)
        out.print(f"  sheet    {sheet}", markup=False)


def _write_sheet(layout: Layout, target: str, files: Files) -> None:
    from pipeline.config.job import Limits
    from pipeline.imaging.decode import decode
    from pipeline.imaging.sheet import Entry, contact_sheet
    from pipeline.output.index import worst

    entries = []
    for row in worst(layout, files, SHEET_ITEMS):
        photo = decode(files.read(row["image_uri"]), Limits())
        caption = f"{row['item_id']}  quality {row['quality']:.2f}  {', '.join(row['reasons'])}"
        box = tuple(row["box"]) if row["box"] else None
        entries.append(Entry(photo, files.read(row["mask_uri"]), files.read(row["cutout_uri"]), box, caption))
    files.write(target, contact_sheet(entries))
