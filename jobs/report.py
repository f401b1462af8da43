"""Write an output's report page, or the page of a sample: ``matteline report``."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out

ITEMS = 300


def report(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    html: Annotated[
        str | None, typer.Option("--output", "-o", "--html", help="The page to write. Default: report.html in the output.")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=0, max=5000, help="Number of worst items to show.")] = ITEMS,
    sample: Annotated[
        bool, typer.Option("--sample", help="Show a random sample. Its imported reviews decide whether the output is accepted.")
    ] = False,
    at_most: Annotated[
        float, typer.Option("--at-most", help="With --sample: largest acceptable share of bad items in the whole output.")
    ] = 0.02,
    confidence: Annotated[
        float,
        typer.Option(
            "--confidence", help="With --sample: confidence that an accepted output has no larger share of bad items."
        ),
    ] = 0.95,
    allowed: Annotated[
        int,
        typer.Option(
            "--allowed", min=0, help="With --sample: accept the output if the sample has at most this many bad items."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="With --sample: seed of the random draw.")] = 0,
    allow_root: options.AllowRoot = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Write one HTML page to review an output: numbers, failures, and the worst items with pictures."""
    from pipeline.log import set_up_logging, waiting_for
    from pipeline.output.output import open_output
    from pipeline.review.pages import Sample, report_page, sample_page
    from pipeline.storage.uris import join

    set_up_logging()
    files = options.files_of(set_, endpoint_url)
    opened = open_output(output, files)
    with waiting_for("reading the index and its pictures"):
        if sample:
            page, message = sample_page(opened, allow_root or (), Sample(at_most, confidence, allowed, seed))
        else:
            page, message = report_page(opened, allow_root or (), items), None
    if message:
        out.print(message, markup=False)
    target = files.absolute(html) if html else join(opened.folder, "report.html")
    files.write(target, page)
    out.print(f"  report   {html or target}, {len(page) / 2**20:.1f} MiB", markup=False)
