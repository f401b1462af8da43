"""``matteline calibrate``: qualities that are probabilities."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from jobs import options
from jobs.console import out, table
from jobs.evaluate import WIDE


def calibrate(
    outputs: Annotated[list[str], typer.Argument(help="Outputs of one model that were evaluated or judged.")],
    to: Annotated[str, typer.Option("--to", "-o", metavar="FILE", help="Where the calibration is written, a .json.")],
    judge: Annotated[
        float, typer.Option("--judge", metavar="SHARE", help="Of the photos, kept apart from the fit to judge it on.")
    ] = 0.5,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Fit what makes a model's quality the probability that a mask's Dice is at least 0.95.

    From what `matteline evaluate` measured and `matteline review import` was told. Copies of a photo (column group) stay on one
    side. Use the file with --set recipe.calibration=FILE, or name it in a preset.
    """
    from pipeline.errors import ConfigError
    from pipeline.evaluate.calibrate import calibrate as fitted
    from pipeline.evaluate.tables import ranking_table
    from pipeline.output.index import only_recipe, put

    if not to.endswith(".json"):
        raise ConfigError(f"--to {to}: the file's name must end in .json")
    files = options.files_of(set_, endpoint_url)
    made = fitted([only_recipe(output, files) for output in outputs], files, judge)
    wide = Console(highlight=False, width=None if out.is_terminal else WIDE)
    if made.rankings:
        title, heads, rows = ranking_table(list(made.rankings.items()))
        shown = table(heads[0], *(f">{head}" for head in heads[1:]), title=title)
        for row in rows:
            shown.add_row(*(escape(cell) for cell in row))
        wide.print(shown)
    about = made.calibration.fitted_on
    out.print(
        f"fitted on {about['items']} items of {about['photos']} photos, {about['good']} of them good; "
        f"of {made.reviews} items only a person's verdict was known",
        markup=False,
    )
    uri = files.absolute(to)
    put(uri, made.calibration.as_json(), files)
    out.print(f"use it: --set recipe.calibration={uri}", markup=False)
