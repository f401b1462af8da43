"""Remove what crashes and changed images leave behind: ``matteline gc``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from jobs import options
from jobs.console import out, table


def gc(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the garbage. Without this option it is only counted.")
    ] = False,
    min_age: Annotated[float, typer.Option("--min-age", min=0, metavar="HOURS", help="Keep what is younger than this.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    set_: options.PassSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Find garbage: partial files, replaced index parts, and masks, cutouts and renditions that no row of the index names.

    Nothing is deleted without --delete. While a run is active in the output, gc is refused with exit code 5, even without
    --delete.
    """
    from pipeline.log import set_up_logging
    from pipeline.output.gc import KINDS, collect_garbage
    from pipeline.output.lease import new_run_id, run_id_after
    from pipeline.output.output import open_outputs
    from pipeline.run.each import workers

    set_up_logging()
    files, compute = options.files_and_compute_of(set_, endpoint_url)
    outputs, reports = open_outputs(output, files), {}
    with workers(compute, outputs, 0.0) as each:
        for one in outputs:
            run_id = run_id_after(new_run_id(), one)
            reports[one.folder] = collect_garbage(one, run_id, delete=delete, min_age_s=3600 * min_age, each=each)
    if as_json:
        out.print_json(json.dumps({folder: asdict(report) | {"deleted": delete} for folder, report in reports.items()}))
        return
    for folder, report in reports.items():
        out.print(f"[bold]{escape(folder)}[/]")
        lines = table("garbage", ">files", ">MB", "meaning")
        for kind, meaning in KINDS.items():
            lines.add_row(kind, str(report.files[kind]), f"{report.bytes[kind] / 1e6:.1f}", meaning)
        out.print(lines)
    out.print("removed" if delete else "dry run: nothing was removed; add --delete to remove it")
