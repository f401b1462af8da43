"""Print an output's numbers: ``matteline show``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import options
from jobs.console import err, out, print_report

if TYPE_CHECKING:
    from pipeline.imaging.sheet import Entry
    from pipeline.output.output import Output
    from pipeline.output.run_record import RecipeReport

SHEET_ITEMS = 24


def show(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    sheet: Annotated[
        str | None,
        typer.Option("--sheet", "-o", help="Write a contact sheet (JPEG) here: photo, mask and cutout, worst quality first."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the path of the contact sheet.")] = False,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Print an output's items by status, failures with examples, quality, and last run.

    Exit code 1: the contact sheet is written, and some of its pictures are missing.
    """
    from pipeline.output.output import open_outputs
    from pipeline.output.run_record import report_of

    files = options.files_of(set_, endpoint_url)
    if sheet:
        from pipeline.imaging.sheet import MARK
        from pipeline.storage.overwriting import refuse_foreign
        from pipeline.storage.uris import parent

        target = files.absolute(sheet)
        in_output = parent(target) == files.absolute(output)  # beside its folders nothing else is kept
        refuse_foreign("--sheet", target, files, (".jpg", ".jpeg"), lambda data: in_output or MARK in data[:4096])
    reports = [report_of(one) for one in open_outputs(output, files)]
    if as_json:
        out.print_json(json.dumps([_facts(report) for report in reports]))
    elif not quiet:
        print_report(reports)
        for report in reports:
            _print_lowest(report.output)
    if sheet:
        complete = _write_sheet(reports[-1].output, files.absolute(sheet))
        say = err if as_json else out  # after JSON, stdout has nothing else
        say.print(sheet if quiet else f"  sheet    {sheet}", markup=False)
        if not complete:
            raise SystemExit(1)


def _print_lowest(output: Output) -> None:
    from pipeline.output.summary import lowest_qualities

    if lowest := lowest_qualities(output, 3):
        named = ", ".join(f"{item_id} {quality:.2f}" for item_id, quality in lowest)
        out.print(f"  lowest quality: {named}", markup=False)


def _facts(report: RecipeReport) -> dict[str, Any]:
    summary = report.summary
    return {
        "folder": report.output.folder,
        "counts": summary.counts,
        "videos": {name: getattr(summary.videos, name) for name in ("count", "frames", "seconds")},
        "remarks": {name: asdict(found) for name, found in summary.remarks.items()},
        "looks": {"first": summary.first_looks, "second": summary.second_looks},
        "expected_below": summary.expected.facts(),
        "last_run": report.last_run,
    }


def _write_sheet(output: Output, target: str) -> bool:
    """Write the contact sheet, and return whether all pictures are on it. Items whose pictures cannot be read are left out."""
    from pipeline.errors import ItemError
    from pipeline.imaging.sheet import contact_sheet
    from pipeline.output.summary import worst

    rows, entries = worst(output, SHEET_ITEMS), []
    for row in rows:
        try:
            entries.append(_entry(output, row))
        except ItemError as error:
            err.print(f"left out of the sheet: {row['item_id']}: {error}", markup=False)
    output.files.write(target, contact_sheet(entries))
    return len(entries) == len(rows)


def _entry(output: Output, row: dict[str, Any]) -> Entry:
    """Read an item's photo, mask and cutout.

    Raises:
        ItemError: One of them cannot be read.
    """
    from pipeline.config.job import Limits
    from pipeline.imaging.decode import decode_preview
    from pipeline.imaging.sheet import CELL, Entry
    from pipeline.imaging.validate import decode_cutout, decode_mask
    from pipeline.quality.reasons import explain

    limits, box = Limits(), row["box"] or row["detected_box"]
    photo, _ = decode_preview(output.files.read(row["image_uri"], max_bytes=limits.max_bytes), limits, 2 * max(CELL))
    mask, cutout = output.load(row["mask_path"], decode_mask), output.load(row["cutout_path"], decode_cutout)
    caption = f"{row['item_id']}  quality {row['quality']:.2f}  {'; '.join(map(explain, row['reasons']))}"
    return Entry(photo, mask, cutout, tuple(box) if box else None, caption)
