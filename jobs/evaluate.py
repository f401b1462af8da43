"""``matteline evaluate``: measure models against ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import err, out, show_error, table
from pipeline.log import SafeConsole

if TYPE_CHECKING:
    from pipeline.errors import Stopped
    from pipeline.evaluate.tables import Table

WIDTH = 200
"""Characters per line of a table that is not written to a terminal."""


def evaluate(
    manifest: options.Manifest = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    box_column: options.BoxColumn = None,
    boxes_column: options.BoxesColumn = None,
    label_column: options.LabelColumn = None,
    output: options.Output = None,
    label: options.Label = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", "-p", help="A model, as for `matteline run`. Repeatable, to compare models.")
    ] = None,
    truth: Annotated[
        str, typer.Option("--truth", metavar="COLUMN", help="The manifest's column that names the ground truth masks.")
    ] = "truth_uri",
    tags: Annotated[
        str | None,
        typer.Option(
            "--tags",
            metavar="COLUMN",
            help="A column of tags (a list, or text separated by ; or ,). Each tag gets a row in the results.",
        ),
    ] = None,
    hce: Annotated[bool, typer.Option("--hce", help="Also compute Human Correction Efforts; slow for large images.")] = False,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Run one or several models on a manifest with ground truth, and measure their masks.

    Items that are already in the output are only measured, not segmented again.
    """
    from pipeline.run.signals import SignalHandler

    def show(error: Stopped) -> None:
        err.show_cursor()
        show_error(error)

    signals = SignalHandler(show)
    signals.install()  # before anything heavy is imported
    # The tables count failures; they do not end an evaluation.
    pairs = ["budget.max_failed_share=1", *options.settings(set_, endpoint_url)]
    pairs += options.run_settings(accept_licence=accept_licence)
    pairs += options.column_settings(image_column, id_column, box_column, boxes_column, label_column)
    pairs += options.label_settings(label)
    presets: list[str | None] = list(preset) if preset else [None]
    jobs = [options.job_of(manifest, output, one, job, pairs, allow_root) for one in presets]
    try:
        from pipeline.evaluate.driver import EvaluateOptions
        from pipeline.evaluate.driver import evaluate as run
        from pipeline.evaluate.tables import tables
        from pipeline.log import set_up_logging
        from pipeline.storage.files import Files

        set_up_logging(verbose=verbose)
        chosen = EvaluateOptions(truth, tags, hce)
        print_tables(tables(run(jobs, chosen, signals=signals)))
        root = Files(jobs[0].storage).absolute(jobs[0].output.uri)
        out.print(f"all numbers and their definitions: {root}/evaluation.md and evaluation.json", markup=False)
    finally:
        signals.wait_if_leaving()


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables, each followed by an empty line."""
    console = SafeConsole(highlight=False, width=None if out.is_terminal else WIDTH)
    for title, header, rows in tables:
        lines = table(header[0], *(f">{name}" for name in header[1:]), title=title)
        for row in rows:
            lines.add_row(*row)
        console.print(lines)
        console.print()
