"""Export an output's masks as a data set: ``matteline dataset``."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out


def dataset(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    coco: Annotated[
        str | None, typer.Option("--coco", metavar="FILE", help="Write COCO annotations (JSON) here: RLE, box, area, score.")
    ] = None,
    indexed: Annotated[
        str | None,
        typer.Option("--indexed", metavar="FOLDER", help="Write one palette PNG per image here, with objects numbered from 1."),
    ] = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Export an output's masks as COCO annotations (--coco), as indexed PNGs (--indexed) or as both, grouped by image."""
    from pipeline.errors import ConfigError
    from pipeline.output.dataset import export_dataset
    from pipeline.output.output import open_output

    if coco is None and indexed is None:
        raise ConfigError("nothing to write; give --coco FILE.json, --indexed FOLDER, or both")
    files = options.files_of(set_, endpoint_url)
    report = export_dataset(
        open_output(output, files),
        coco=None if coco is None else files.absolute(coco),
        indexed=None if indexed is None else files.absolute(indexed),
    )
    notes = f", {report.empty} masks without an object" if report.empty else ""
    notes += f", {report.stale} of changed images left out" if report.stale else ""
    out.print(f"{report.images} images, {report.objects} objects{notes}")
    for target in (coco, indexed):
        if target is not None:
            out.print(f"  {target}", markup=False)
