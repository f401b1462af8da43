"""``matteline evaluate``: models against true masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from jobs import options
from jobs.console import err, out, show_error, table

if TYPE_CHECKING:
    from pipeline.config.job import Job
    from pipeline.errors import Stopped
    from pipeline.run.signals import SignalHandler


WIDE = 200
"""Characters of a table in a file or a pipe."""


def evaluate(
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", "-p", help="A model, as for `matteline run`. Repeatable: they are compared.")
    ] = None,
    truth: Annotated[
        str, typer.Option("--truth", metavar="COLUMN", help="The manifest's column that names the true masks.")
    ] = "truth_uri",
    tags: Annotated[
        str | None,
        typer.Option("--tags", metavar="COLUMN", help="A column of tags (a list, or text with ; or , between): one line each."),
    ] = None,
    hce: Annotated[bool, typer.Option("--hce", help="Human correction efforts too; slow on large pictures.")] = False,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out a manifest that has true masks, with one model or several, and say how far off they are.

    Items that the output has already are measured as they are.
    """
    from pipeline.run.signals import SignalHandler

    def say(error: Stopped) -> None:
        err.show_cursor()
        show_error(error)

    signals = SignalHandler(say)
    signals.install()  # before anything heavy is imported
    # Failures are counted in the table: an evaluation isn't given up for them.
    pairs = ["budget.max_failed_share=1", *options.settings(set_, endpoint_url)]
    presets: list[str | None] = list(preset) if preset else [None]
    jobs = [options.job_of(manifest, output, one, job, pairs, allow_root) for one in presets]
    try:
        _evaluate(jobs, truth, tags, signals, hce=hce, accept_licence=accept_licence, verbose=verbose)
    finally:
        signals.wait_if_leaving()


def _evaluate(
    jobs: list[Job], truth: str, tags: str | None, signals: SignalHandler, *, hce: bool, accept_licence: bool, verbose: bool
) -> None:
    from pipeline.evaluate.driver import Asked, evaluate
    from pipeline.evaluate.tables import tables
    from pipeline.log import set_up_logging
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    asked = Asked(truth, tags, hce)
    wide = Console(highlight=False, width=None if out.is_terminal else WIDE)
    for title, heads, rows in tables(evaluate(jobs, asked, accept_licence=accept_licence, signals=signals)):
        made = table(heads[0], *(f">{head}" for head in heads[1:]), title=title)
        for row in rows:
            made.add_row(*(escape(cell) for cell in row))
        wide.print(made)
        wide.print()
    root = Files(jobs[0].storage).absolute(jobs[0].output)
    out.print(f"every number, with its definition: {root}/evaluation.md and evaluation.json", markup=False)
