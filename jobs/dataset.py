"""Export an output's masks as data sets: ``matteline dataset``."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import out

if TYPE_CHECKING:
    from pipeline.datasets.export import DatasetReport


class Images(StrEnum):
    """Ways to bring photos into a folder."""

    copy = "copy"
    link = "link"


Folder = str | None


def dataset(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    coco: Annotated[
        str | None, typer.Option("--coco", metavar="FILE", help="Write COCO annotations (JSON, run lengths) here.")
    ] = None,
    coco_polygons: Annotated[
        bool, typer.Option("--coco-polygons", help="With --coco: polygons instead of run lengths, for labelling tools.")
    ] = False,
    yolo: Annotated[
        Folder, typer.Option("--yolo", metavar="FOLDER", help="Write photos, polygons and data.yaml for YOLO here.")
    ] = None,
    indexed: Annotated[
        Folder,
        typer.Option("--indexed", metavar="FOLDER", help="Write one palette PNG per image here, with objects numbered from 1."),
    ] = None,
    imagefolder: Annotated[
        Folder,
        typer.Option(
            "--imagefolder", metavar="FOLDER", help="Write photos, masks and metadata.jsonl for Hugging Face datasets here."
        ),
    ] = None,
    parquet: Annotated[
        Folder,
        typer.Option("--parquet", metavar="FOLDER", help="Write Parquet with photos and masks in it here, for Hugging Face."),
    ] = None,
    classes: Annotated[
        bool, typer.Option("--classes", help="With --indexed: pixels are the class ids of the column category.")
    ] = False,
    images: Annotated[
        Images, typer.Option("--images", help="With --yolo and --imagefolder: copy photos, or write symbolic links to them.")
    ] = Images.copy,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            metavar="FILE",
            help="COCO file from which the manifest was built, if it was moved; `none` gives new ids instead of its own.",
        ),
    ] = None,
    category_column: Annotated[
        str | None,
        typer.Option("--category-column", metavar="NAME", help="The manifest's column of classes. Default: category."),
    ] = None,
    split_column: Annotated[
        str | None, typer.Option("--split-column", metavar="NAME", help="The manifest's column of splits. Default: split.")
    ] = None,
    allow_root: options.AllowRoot = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Export an output's masks as data sets: COCO, YOLO, palette PNGs, Hugging Face. Several forms may be given at once.

    The manifest's column `category` has the classes. A column `split` makes one file or folder per split.
    """
    from pipeline.datasets.export import Choices, Targets, export_dataset
    from pipeline.datasets.rows import LabelColumns
    from pipeline.errors import ConfigError
    from pipeline.log import set_up_logging
    from pipeline.output.output import open_output

    set_up_logging()
    given = {"coco": coco, "yolo": yolo, "indexed": indexed, "imagefolder": imagefolder, "parquet": parquet}
    if not any(given.values()):
        raise ConfigError(
            "nothing to write; give --coco FILE.json, --yolo FOLDER, --indexed FOLDER, --imagefolder FOLDER, --parquet FOLDER, "
            "or several of them"
        )
    if coco_polygons and not coco:
        raise ConfigError("--coco-polygons needs --coco FILE.json, whose annotations become polygons")
    if classes and not indexed:
        raise ConfigError("--classes needs --indexed FOLDER, whose pixels become class ids")
    if images == Images.link and not (yolo or imagefolder):
        raise ConfigError("--images link needs --yolo FOLDER or --imagefolder FOLDER, which contain photos")
    files = options.files_of(set_, endpoint_url, allow_root)
    targets = Targets(**{name: None if value is None else files.absolute(value) for name, value in given.items()})
    labels = LabelColumns(category_column, split_column)
    choices = Choices(classes, coco_polygons, images.value, source, allow_root or (), labels)
    report = export_dataset(open_output(output, files), targets, choices)
    out.print(f"{report.images} images, {report.objects} objects{_notes(report)}", markup=False)
    for target in report.written:
        out.print(f"  {target}", markup=False)
    if report.without_photo:
        raise typer.Exit(1)


def _notes(report: DatasetReport) -> str:
    notes = {
        "masks without an object": report.empty,
        "masks of changed images left out": report.stale,
        "annotations without a mask keep the geometry of the source": report.kept,
        "images of the source without items left out": report.no_split,
        f"images left out of forms with photos: {report.first_reason}": report.without_photo,
    }
    return "".join(f", {count} {note}" for note, count in notes.items() if count)
