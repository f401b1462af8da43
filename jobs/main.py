"""Define the ``matteline`` command with its subcommands, and map errors to exit codes."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from jobs.bench import bench
from jobs.calibrate import calibrate
from jobs.compare import compare
from jobs.console import err, show_error
from jobs.cut import cut
from jobs.dataset import dataset
from jobs.detect import detect
from jobs.evaluate import evaluate
from jobs.export import export
from jobs.gc import gc
from jobs.infra import infra
from jobs.manifest import manifest
from jobs.models import models
from jobs.plan import plan
from jobs.renditions import renditions
from jobs.report import report
from jobs.review import review
from jobs.run import run
from jobs.serve import serve
from jobs.show import show
from jobs.top import top
from jobs.train import train
from jobs.verify import verify

M_ARENA_MAX = -8
"""glibc's name of the number of heaps (malloc.h)."""

app = typer.Typer(
    name="matteline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Start with the bundled photos, which the path examples/ leads to: "
    "matteline run --manifest examples/manifest.csv --output out/demo",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import pipeline

        typer.echo(f"matteline {pipeline.__version__}")
        raise typer.Exit


@app.callback()
def matteline(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Cut objects out of images: one picture, a folder, or ten million."""


WORK = (run, top, cut, detect, serve, plan, manifest, show, verify, gc, dataset)
JUDGEMENT = (evaluate, calibrate, report, compare)
for command in (*WORK, *JUDGEMENT, train, export, models, renditions, bench):
    app.command()(command)
app.add_typer(review, name="review")
app.add_typer(infra, name="infra")


def main() -> None:
    """Run a command. The exit code is that of the error (see ``pipeline.errors``), or 0.

    A pipe that is closed before the last line (``matteline show out | head -1``) is not an error; see ``SafeConsole``.
    """
    # Arrow's own allocator keeps the memory of every thread that read an index: 600 MiB for a million rows. The variable must
    # be set before Arrow is imported. Workers inherit it.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _share_malloc_arenas()

    from pipeline.errors import PipelineError

    try:
        app()
    except PipelineError as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            err.print_exception()
        show_error(error)
        raise SystemExit(error.exit_code) from None


def _share_malloc_arenas() -> None:
    """Let all threads of this process allocate from two heaps.

    By default, glibc gives every thread one, and each keeps what its thread freed: 80 MiB in a run that merges index parts.
    """
    with suppress(OSError, AttributeError, TypeError):  # glibc only; on Windows there is no CDLL(None)
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


if __name__ == "__main__":
    main()
