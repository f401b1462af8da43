"""``matteline manifest``: build a manifest from a folder, a prefix, COCO annotations, or a data set with true masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.storage.files import Files

REASONS = 10
"""Why copies were left out: the most frequent ones are said."""


def manifest(
    images: Annotated[
        str, typer.Argument(help="A folder of images, a prefix such as s3://bucket/photos/, or Parquet for --unpack.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="The manifest to write: .csv, .parquet or .jsonl.")],
    coco: Annotated[
        str | None, typer.Option("--coco", help="COCO annotations (JSON): one item an annotation, with its box.")
    ] = None,
    write_masks: Annotated[
        str | None,
        typer.Option("--write-masks", metavar="FOLDER", help="With --coco: write the objects' true masks here, as PNG."),
    ] = None,
    masks: Annotated[
        str | None, typer.Option("--masks", metavar="FOLDER", help="True masks, called like their images up to the suffix.")
    ] = None,
    dis5k: Annotated[
        bool, typer.Option("--dis5k", help="The folder is DIS5K, or a part of it: im/ has the images, gt/ the true masks.")
    ] = False,
    unpack: Annotated[
        str | None,
        typer.Option(
            "--unpack", metavar="FOLDER", help="Parquet with columns image and mask (bytes): write them as files here."
        ),
    ] = None,
    copies: Annotated[
        str | None,
        typer.Option(
            "--copies",
            metavar="KINDS",
            help="With true masks: write harder copies of the photos, too, into copies/ beside the manifest. Some of blur, "
            "low_light, jpeg, noise, distractor, shadow, reflection; or all.",
        ),
    ] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Build a manifest: every image below a folder or prefix, or every annotated object with its box.

    With true masks, as `matteline evaluate` wants them, in a column truth_uri.
    """
    from pipeline.errors import ConfigError
    from pipeline.manifest.build import write_manifest
    from pipeline.manifest.corruptions import kinds_of, with_copies
    from pipeline.storage.allowlist import AllowList
    from pipeline.storage.uris import join, parent

    kinds = kinds_of(copies or "")
    ways = {"--coco": coco, "--masks": masks, "--dis5k": dis5k, "--unpack": unpack}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} don't go together; give one of them")
    if write_masks and not coco:
        raise ConfigError("--write-masks needs --coco: the annotations that the masks are made of")
    files = options.files_of(set_, endpoint_url)
    folder, target = files.absolute(images), files.absolute(output)
    table = _built(folder, files, coco=coco, write_masks=write_masks, masks=masks, dis5k=dis5k, unpack=unpack)
    read = [files.absolute(one) for one in (images, masks, write_masks) if one]
    read = [files.absolute(unpack)] if unpack else read
    left_out: dict[str, int] = {}
    if kinds:
        place = join(parent(target), "copies")
        if f"{place}/".startswith(f"{folder}/"):
            raise ConfigError(f"the copies would lie in {place}, among the photos; write the manifest beside their folder")
        table, left_out = with_copies(table, kinds, place, AllowList(tuple(read)), files)
    write_manifest(table, target, files)
    boxed = next((name for name in ("x0", "box") if name in table.column_names), None)
    boxes = table.num_rows - table[boxed].null_count if boxed else 0
    truths = f", {table.num_rows - table['truth_uri'].null_count} with a true mask" if "truth_uri" in table.column_names else ""
    out.print(f"{output}: {table.num_rows} items, {boxes} with a box{truths}", markup=False)
    for reason, count in sorted(left_out.items(), key=lambda pair: -pair[1])[:REASONS]:
        out.print(f"  {count} {'copy' if count == 1 else 'copies'} left out: {reason}", markup=False)
    _say_roots(read, target)


def _built(
    folder: str, files: Files, *, coco: str | None, write_masks: str | None, masks: str | None, dis5k: bool, unpack: str | None
) -> pa.Table:
    from pipeline.manifest.build import from_coco, from_dis5k, from_folder, from_masks
    from pipeline.manifest.ground_truth import from_coco_masks, from_hub

    if coco and write_masks:
        return from_coco_masks(files.absolute(coco), folder, files.absolute(write_masks), files)
    if coco:
        return from_coco(files.absolute(coco), folder, files)
    if masks:
        return from_masks(folder, files.absolute(masks), files)
    if dis5k:
        return from_dis5k(folder, files)
    return from_hub(folder, files.absolute(unpack), files) if unpack else from_folder(folder, files)


def _say_roots(folders: list[str], target: str) -> None:
    """What must be allowed when the manifest is used."""
    from pipeline.storage.uris import parent

    outside = [folder for folder in folders if not f"{folder}/".startswith(f"{parent(target).rstrip('/')}/")]
    if outside:
        allowlist = " ".join(f"--allow-root {folder}" for folder in outside)
        out.print(f"the images lie outside the manifest's folder: run it with {allowlist}", markup=False)
