"""``matteline report``: an output as one page to look through, and the sample to judge it by."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out

ITEMS = 300


def report(
    output: Annotated[str, typer.Argument(help="A run's output with one recipe, or the recipe's folder: a path or a URI.")],
    html: Annotated[
        str | None, typer.Option("--html", help="Where the page goes; absent, report.html in the recipe's folder.")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=0, max=5000, help="How many of the worst items get pictures.")] = ITEMS,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw a sample to judge the whole output by, and show that.")
    ] = False,
    at_most: Annotated[
        float, typer.Option("--at-most", help="With --sample: the share of bad items that is tolerable.")
    ] = 0.02,
    confidence: Annotated[float, typer.Option("--confidence", help="With --sample: how sure the verdict is to be.")] = 0.95,
    allowed: Annotated[int, typer.Option("--allowed", min=0, help="With --sample: bad ones in it that are forgiven.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="With --sample: another number draws other items.")] = 0,
    allow_root: options.AllowRoot = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Write one HTML page: numbers, failures, and the worst items with pictures, to be judged."""
    from pipeline.output.index import only_recipe
    from pipeline.review.pages import Sample, report_page, sample_page
    from pipeline.storage.uris import join

    files = options.files_of(set_, endpoint_url)
    layout = only_recipe(output, files)
    if sample:
        page, said = sample_page(layout, files, allow_root or (), Sample(at_most, confidence, allowed, seed))
        out.print(said, markup=False)
    else:
        page = report_page(layout, files, allow_root or (), items)
    target = files.absolute(html) if html else join(layout.folder, "report.html")
    files.write(target, page)
    out.print(f"  report   {html or target}, {len(page) / 2**20:.1f} MiB", markup=False)
