"""``matteline gc``: remove what crashes and changes have left behind."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from jobs import options
from jobs.console import out, table


def gc(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, it is only counted.")] = False,
    min_age: Annotated[
        float,
        typer.Option("--min-age", min=0, metavar="HOURS", help="Leave alone what is younger than this."),
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Find what no row of the index needs: orphaned and superseded objects, replaced index parts, half-written files.

    A dry run unless --delete is given. Refused with exit code 5 while a run is at work there.
    """
    from rich.markup import escape

    from pipeline.errors import ConfigError
    from pipeline.output.gc import KINDS, sweep
    from pipeline.output.index import recipes
    from pipeline.output.layout import Layout
    from pipeline.run.driver import new_run_id

    files = options.files_of(set_, endpoint_url)
    folders = recipes(files.absolute(output), files)
    if not folders:
        raise ConfigError(f"no results under {files.absolute(output)}; nothing to clear away")
    swept = {
        folder: sweep(Layout.of(folder), new_run_id(), files, delete=delete, min_age_s=3600 * min_age) for folder in folders
    }
    if as_json:
        out.print_json(json.dumps({folder: asdict(found) | {"deleted": delete} for folder, found in swept.items()}))
        return
    for folder, found in swept.items():
        out.print(f"[bold]{escape(folder)}[/]")
        lines = table("garbage", ">files", ">MB", "what")
        for kind, about in KINDS.items():
            lines.add_row(kind, str(found.files[kind]), f"{found.bytes[kind] / 1e6:.1f}", about)
        out.print(lines)
    out.print("removed" if delete else "a dry run: nothing was removed; --delete removes it")
