"""``matteline review``: what people said of an output's items."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out

review = typer.Typer(help="Keep what people said of items.", no_args_is_help=True)


@review.command("import")
def import_(
    reviews: Annotated[str, typer.Argument(help="The CSV that the page of `matteline report` exports.")],
    output: Annotated[str, typer.Argument(help="The output that was judged, or its recipe's folder.")],
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Keep a page's reviews beside the index; with a sample drawn, say what follows."""
    from pipeline.errors import ConfigError
    from pipeline.output.index import only_recipe
    from pipeline.review.reviews import import_reviews, judge_sample

    files = options.files_of(set_, endpoint_url)
    layout = only_recipe(output, files)
    try:
        text = files.read(files.absolute(reviews)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{reviews} is no UTF-8 text; export the reviews again") from error
    count, uri = import_reviews(text, layout, files)
    out.print(f"{count} reviews in {uri}", markup=False)
    judged = judge_sample(layout, files)
    if judged is not None:
        out.print(judged.sentence, markup=False)


@review.command()
def accept(
    output: Annotated[str, typer.Argument(help="The output that is as it should be, or its recipe's folder.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="FILE", help="Keep it here, a .json; absent, beside the index. For run --drift-from FILE."
        ),
    ] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Say that an output is as it should be: later runs warn when their quality drifts from it."""
    from pipeline.errors import ConfigError
    from pipeline.output.index import only_recipe
    from pipeline.review.accept import accept as accept_output

    if to is not None and not to.endswith(".json"):
        raise ConfigError(f"--to {to}: the file's name must end in .json")
    files = options.files_of(set_, endpoint_url)
    accepted = accept_output(only_recipe(output, files), files, files.absolute(to) if to else None)
    out.print(f"accepted: {accepted.lot.items} items, kept in {accepted.place}", markup=False)


@review.callback()
def _about() -> None:
    """Keep what people said of items."""
