"""Import human reviews and accept outputs: ``matteline review``."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out

review = typer.Typer(help="Import human reviews, and accept an output as the drift baseline.", no_args_is_help=True)


@review.command("import")
def import_(
    reviews: Annotated[str, typer.Argument(help="The CSV that the page of `matteline report` exports.")],
    output: Annotated[str, typer.Argument(help="The reviewed output.")],
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Store a page's reviews in the output. If a sample was drawn, print whether the sample passes."""
    from pipeline.errors import ConfigError
    from pipeline.output.output import open_output
    from pipeline.review.reviews import describe_outdated, import_reviews, review_sample

    files = options.files_of(set_, endpoint_url)
    opened = open_output(output, files)
    try:
        text = files.read(files.absolute(reviews)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{reviews} is not UTF-8 text; export the reviews again") from error
    imported = import_reviews(text, opened)
    out.print(f"{imported.stored} reviews in {imported.uri}", markup=False)
    if imported.outdated:
        out.print(describe_outdated(imported.outdated), markup=False)
    result = review_sample(opened)
    if result is not None:
        out.print(result.message, markup=False)


@review.command()
def accept(
    output: Annotated[str, typer.Argument(help="The output to accept.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", "-o", metavar="FILE", help="The .json file to write, for run --drift-from FILE. Default: in the output."
        ),
    ] = None,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Accept an output as the baseline: later runs warn when their quality drifts from it."""
    from pipeline.output.output import open_output
    from pipeline.review.accept import accept as accept_output
    from pipeline.storage.overwriting import json_with, refuse_foreign

    files = options.files_of(set_, endpoint_url)
    target = files.absolute(to) if to else None
    if target is not None:
        refuse_foreign("--to", target, files, (".json",), json_with("accepted_at", "lot"))
    baseline = accept_output(open_output(output, files), target)
    out.print(f"accepted: {baseline.distribution.items} items, kept in {baseline.uri}", markup=False)


@review.callback()
def _about() -> None:
    """Import human reviews, and accept an output as the drift baseline."""
