"""``matteline calibrate``: turn quality scores into probabilities."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import out
from jobs.evaluate import print_tables


def calibrate(
    outputs: Annotated[list[str], typer.Argument(help="Outputs of one model. Each needs an evaluation or reviews.")],
    to: Annotated[str, typer.Option("--to", "-o", metavar="FILE", help="The calibration to write, a .json file.")],
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Fit a calibration: quality becomes the probability that a mask's Dice is at least 0.95.

    It also chooses the threshold between ok and review, for recipes without review_below: the lowest quality above which at
    most 5 % of the masks have a Dice below 0.9.

    It uses the measurements of `matteline evaluate` and the reviews of `matteline review import`. The tables and the threshold
    come from a cross-validation: each item is judged by a fit on other photos (other values in the column group). Use the file
    with --set recipe.calibration=FILE, or name it in a preset.
    """
    from pipeline.config.recipe import REVIEW_BELOW
    from pipeline.evaluate.calibrate import calibrate as fit
    from pipeline.evaluate.tables import ranking_table, score_table
    from pipeline.output.output import open_output
    from pipeline.storage.overwriting import json_with, refuse_foreign

    files = options.files_of(set_, endpoint_url)
    refuse_foreign("--to", files.absolute(to), files, (".json",), json_with("bias", "terms", "good_from"))
    opened = [open_output(output, files) for output in outputs]
    result = fit(opened)
    if result.rankings:
        tables = [ranking_table(list(result.rankings.items())), score_table("The score by tag", result.by_tag)]
        print_tables(tables)
    about = result.calibration.fitted_on
    out.print(
        f"fitted on {about['items']} items of {about['photos']} photos, {about['good']} of them good; "
        f"{result.reviews} items have only a review",
        markup=False,
    )
    if result.threshold is not None:
        out.print(result.threshold.describe(), markup=False)
    else:
        out.print(
            "no threshold: too few items with a Dice, or too many failures among the best of them; the status depends on "
            f"review_below {REVIEW_BELOW:g}, unless you set it",
            markup=False,
        )
    uri = files.absolute(to)
    opened[0].write(uri, result.calibration.as_json())
    out.print(f"use it: --set recipe.calibration={uri}", markup=False)
