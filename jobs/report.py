"""Write an output's report page, or the page of a sample: ``matteline report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import err, out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.review.pages import Page
    from pipeline.storage.files import Files

ITEMS = 300
NAMED = 10
"""Items with missing pictures that are named per kind. The page lists them all."""


def report(
    output: Annotated[
        str, typer.Argument(help="A run's output: a folder or a URI. Or a .parquet file with boxes, from matteline detect.")
    ],
    html: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            "--html",
            help="The page to write. Default: report.html in the output; boxes.html beside boxes.parquet.",
        ),
    ] = None,
    items: Annotated[
        int, typer.Option("--items", min=0, max=5000, help="Number of worst items to show with pictures.")
    ] = ITEMS,
    show: Annotated[
        str | None,
        typer.Option(
            "--show",
            metavar="COLUMN,…",
            help='Columns of the manifest to show and search, e.g. sku,price; "" for none. Default: the first six.',
        ),
    ] = None,
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Show a few items drawn at random. If they are good, so is nearly all of the output: see --at-most.",
        ),
    ] = False,
    at_most: Annotated[
        float,
        typer.Option("--at-most", help="With --sample: share of bad items in the whole output that you accept; 0.02 is 2 %."),
    ] = 0.02,
    confidence: Annotated[
        float, typer.Option("--confidence", help="With --sample: how certain you want to be of that; 0.95 is 95 %.")
    ] = 0.95,
    allowed: Annotated[
        int,
        typer.Option("--allowed", min=0, help="With --sample: bad items that the sample may have. More need a larger sample."),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="With --sample: another number draws other items.")] = 0,
    allow_root: options.AllowRoot = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Write one HTML page to review an output: numbers, failures, and the worst items with pictures.

    Of a .parquet file that matteline detect wrote, the page shows photos with their boxes, the lowest scores
    first.

    Exit code 1: the page is written, and some of its pictures are missing.
    """
    from pipeline.log import set_up_logging, waiting_for
    from pipeline.output.output import open_output
    from pipeline.review.html import is_page
    from pipeline.review.pages import Options, Sample, report_page, sample_page
    from pipeline.storage.overwriting import refuse_foreign
    from pipeline.storage.uris import join

    set_up_logging()
    files = options.files_of(set_, endpoint_url)
    if output.lower().endswith(".parquet"):
        _refuse_for_boxes({"--sample": sample, "--show": show is not None})
        _report_boxes(output, html, items, files, allow_root or ())
        return
    columns = None if show is None else [name.strip() for name in show.split(",") if name.strip()]
    with waiting_for("reading the index and its pictures"):
        opened = open_output(output, files)
        target = files.absolute(html) if html else join(opened.folder, "report.html")
        if html:
            refuse_foreign("--output", target, files, (".html", ".htm"), is_page)
        wanted = Options(target, allow_root or (), columns)
        if sample:
            page = sample_page(opened, Sample(at_most, confidence, allowed, seed), wanted)
        else:
            page = report_page(opened, items, wanted)
    if page.message:
        out.print(f"  sample   {page.message}", markup=False)
    with waiting_for("writing the page", at_once=False):
        files.write(target, page.html)
    out.print(f"  report   {html or target}, {len(page.html) / 2**20:.1f} MiB", markup=False)
    if page.missing:
        _say_missing(page)
        raise SystemExit(1)


def _refuse_for_boxes(given: Mapping[str, bool]) -> None:
    """Refuse options that a page of boxes does not have.

    Raises:
        ConfigError: One of them was given.
    """
    from pipeline.errors import ConfigError

    for option, is_given in given.items():
        if is_given:
            raise ConfigError(f"{option} is for the output of matteline run, not for a file with boxes; remove it")


def _report_boxes(boxes: str, html: str | None, items: int, files: Files, allow_roots: Sequence[str]) -> None:
    """Write the page of a manifest with boxes; see ``report``."""
    from pipeline.log import waiting_for
    from pipeline.review.box_page import boxes_page
    from pipeline.review.html import is_page
    from pipeline.storage.overwriting import refuse_foreign

    uri = files.absolute(boxes)
    target = files.absolute(html) if html else f"{uri[: -len('.parquet')]}.html"
    refuse_foreign("--output", target, files, (".html", ".htm"), is_page)
    with waiting_for("reading the boxes and their photos"):
        page = boxes_page(uri, files, items, allow_roots)
    files.write(target, page.html)
    out.print(f"  report   {html or target}, {len(page.html) / 2**20:.1f} MiB", markup=False)
    if page.missing:
        _say_missing(page)
        raise SystemExit(1)


def _say_missing(page: Page) -> None:
    affected = {item_id for one in page.missing for item_id in one.ids}
    err.print(f"pictures are missing for {len(affected):,} of {page.pictured:,} items; the page marks them", markup=False)
    for one in page.missing:
        err.print(f"  missing  {one.describe(NAMED)}", markup=False)
