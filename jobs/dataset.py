"""``matteline dataset``: the masks of an output, united by image."""

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
        typer.Option("--indexed", metavar="FOLDER", help="Write a palette PNG an image here, its objects numbered from 1."),
    ] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Make a data set of an output's masks: all objects of an image together."""
    from pipeline.errors import ConfigError
    from pipeline.output.dataset import unite
    from pipeline.output.index import only_recipe

    if coco is None and indexed is None:
        raise ConfigError("say what to write: --coco FILE.json, --indexed FOLDER, or both")
    files = options.files_of(set_, endpoint_url)
    united = unite(
        only_recipe(output, files),
        files,
        coco=None if coco is None else files.absolute(coco),
        indexed=None if indexed is None else files.absolute(indexed),
    )
    left = f", {united.empty} masks without an object" if united.empty else ""
    left += f", {united.stale} of images that have changed left out" if united.stale else ""
    out.print(f"{united.images} images, {united.objects} objects{left}")
    for target in (coco, indexed):
        if target is not None:
            out.print(f"  {target}", markup=False)
