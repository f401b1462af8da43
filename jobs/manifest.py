"""``matteline manifest``: build a manifest from a folder, a prefix, COCO annotations, or a data set with ground truth."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.storage.files import Files

REASONS = 10
"""Number of reasons for left-out copies that are printed, most frequent first."""


def manifest(
    images: Annotated[
        str, typer.Argument(help="Folder of images, prefix such as s3://bucket/photos/, or Parquet for --unpack.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Manifest to write: .csv, .parquet or .jsonl.")],
    coco: Annotated[
        str | None, typer.Option("--coco", help="COCO annotations (JSON): one item per annotation, with its box.")
    ] = None,
    write_masks: Annotated[
        str | None,
        typer.Option("--write-masks", metavar="FOLDER", help="With --coco: write the objects' ground truth here, as PNG."),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            "--masks", metavar="FOLDER", help="Ground truth: a folder of masks named like their images; suffixes may differ."
        ),
    ] = None,
    dis5k: Annotated[
        bool, typer.Option("--dis5k", help="The folder is DIS5K, or a part of it: images in im/, ground truth in gt/.")
    ] = False,
    unpack: Annotated[
        str | None,
        typer.Option(
            "--unpack",
            metavar="FOLDER",
            help="Write images (and masks) that are stored as bytes in a Parquet file to this folder.",
        ),
    ] = None,
    corruptions: Annotated[
        str | None,
        typer.Option(
            "--corruptions",
            metavar="KINDS",
            help="With --masks, --dis5k, --unpack or --write-masks: add corrupted copies of the photos, written to copies/ "
            "beside the manifest. Comma-separated: blur, low_light, jpeg, noise, distractor, shadow, reflection; or all.",
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            "--boxes",
            metavar="KINDS",
            help="With ground truth, as for --corruptions: add copies of the items with other boxes. Comma-separated: none, "
            "tight, loose (by 0 to 60 % on each side), whole (nearly the complete picture), shifted, cut, beside (around "
            "something else); or all.",
        ),
    ] = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Build a manifest: one item per image below a folder or prefix. With --coco: one item per annotated object.

    Ground truth for `matteline evaluate` goes to the column truth_uri.
    """
    from pipeline.errors import ConfigError
    from pipeline.manifest.box_copies import parse_box_kinds, with_rough_boxes
    from pipeline.manifest.build import check_suffix, refuse_other_columns, write_manifest
    from pipeline.manifest.corruptions import parse_kinds, with_corruptions
    from pipeline.storage.allowlist import AllowList
    from pipeline.storage.overwriting import refuse_inputs
    from pipeline.storage.uris import check_utf8, join, parent

    kinds, box_kinds = parse_kinds(corruptions or ""), parse_box_kinds(boxes or "")
    ways = {"--coco": coco, "--masks": masks, "--dis5k": dis5k, "--unpack": unpack}
    chosen = [name for name, given in ways.items() if given]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)} cannot be combined; use one of them")
    if write_masks and not coco:
        raise ConfigError("--write-masks needs --coco, the annotations that the masks are drawn from")
    files = options.files_of(set_, endpoint_url)
    check_suffix(output)
    folder, target = check_utf8(files.absolute(images)), check_utf8(files.absolute(output))
    coco, masks, write_masks, unpack = (one and check_utf8(files.absolute(one)) for one in (coco, masks, write_masks, unpack))
    refuse_inputs("--output", [target], [one for one in (folder, coco) if one])
    table = _built(folder, files, coco=coco, write_masks=write_masks, masks=masks, dis5k=dis5k, unpack=unpack)
    read = [unpack] if unpack else [one for one in (folder, masks, write_masks) if one]
    left_out = Counter[str]()
    if kinds:
        place = join(parent(target), "copies")
        if f"{place}/".startswith(f"{folder}/"):
            raise ConfigError(
                f"the copies would be written to {place}, among the photos; write the manifest outside of their folder"
            )
        table, copies = with_corruptions(table, kinds, place, AllowList(tuple(read)), files)
        left_out.update(copies)
    if box_kinds:
        table, without = with_rough_boxes(table, box_kinds, AllowList(tuple(read)), files)
        left_out.update(without)
    refuse_other_columns(table, target, files)
    write_manifest(table, target, files)
    boxed = next((name for name in ("x0", "box") if name in table.column_names), None)
    with_box = table.num_rows - table[boxed].null_count if boxed else 0
    truths = (
        f", {table.num_rows - table['truth_uri'].null_count} with ground truth" if "truth_uri" in table.column_names else ""
    )
    out.print(f"{output}: {table.num_rows} items, {with_box} with a box{truths}", markup=False)
    for reason, count in left_out.most_common(REASONS):
        out.print(f"  {count} {'copy' if count == 1 else 'copies'} left out: {reason}", markup=False)
    _print_roots(read, target)


def _built(
    folder: str, files: Files, *, coco: str | None, write_masks: str | None, masks: str | None, dis5k: bool, unpack: str | None
) -> pa.Table:
    from pipeline.manifest.build import from_dis5k, from_folder, from_masks
    from pipeline.manifest.coco import from_coco
    from pipeline.manifest.coco_masks import from_coco_masks
    from pipeline.manifest.unpack import from_hub

    if coco and write_masks:
        return from_coco_masks(coco, folder, write_masks, files)
    if coco:
        return from_coco(coco, folder, files)
    if masks:
        return from_masks(folder, masks, files)
    if dis5k:
        return from_dis5k(folder, files)
    return from_hub(folder, unpack, files) if unpack else from_folder(folder, files)


def _print_roots(folders: list[str], target: str) -> None:
    """Print the --allow-root options that runs of this manifest need."""
    from pipeline.storage.allowlist import allow_root
    from pipeline.storage.uris import parent

    outside = [folder for folder in folders if not f"{folder}/".startswith(f"{parent(target).rstrip('/')}/")]
    if outside:
        needed = " ".join(map(allow_root, outside))
        out.print(f"the images are outside the manifest's folder; run it with {needed}", markup=False)
