"""``matteline manifest``: build a manifest from a folder, a prefix, or COCO annotations."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out


def manifest(
    images: Annotated[str, typer.Argument(help="A folder of images, or a prefix such as s3://bucket/photos/.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The manifest to write: .csv, .parquet or .jsonl.")],
    coco: Annotated[
        str | None, typer.Option("--coco", help="COCO annotations (JSON): one item an annotation, with its box.")
    ] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Build a manifest: every image below a folder or prefix, or every annotated object with its box."""
    from pipeline.storage.build import from_coco, from_folder, write_manifest
    from pipeline.storage.uris import parent

    files = options.files_of(set_, endpoint_url)
    folder, target = files.absolute(images), files.absolute(output)
    table = from_coco(files.absolute(coco), folder, files) if coco else from_folder(folder, files)
    write_manifest(table, target, files)
    boxes = table.num_rows - table["x0"].null_count if "x0" in table.column_names else 0
    out.print(f"{output}: {table.num_rows} items, {boxes} with a box", markup=False)
    if not f"{folder}/".startswith(f"{parent(target).rstrip('/')}/"):
        out.print(f"the images lie outside the manifest's folder: run it with --allow-root {folder}", markup=False)
