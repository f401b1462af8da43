"""``matteline run``: a manifest in; masks, cutouts and an index out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import err, print_report, show_error

if TYPE_CHECKING:
    from pipeline.config.job import Job
    from pipeline.errors import Stopped
    from pipeline.run.signals import SignalHandler


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def run(
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    retry: Annotated[
        str | None, typer.Option("--retry", metavar="CODES", help="Do failed items again by error code, e.g. fetch,write.")
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Do items again whose image, URI or box is another than when they were done.")
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="TIME", help="Take up no more items after so long, e.g. 6h; the next run goes on."),
    ] = None,
    wait_for_gpus: Annotated[
        int | None,
        typer.Option("--wait-for-gpus", metavar="N", help="Wait until the cluster has so many, up to compute.wait_s."),
    ] = None,
    min_actors: Annotated[
        int | None, typer.Option("--min-actors", metavar="N", help="End, resumable, where fewer copies of the model have room.")
    ] = None,
    max_actors: Annotated[
        int | None, typer.Option("--max-actors", metavar="N", help="Make more copies, up to so many, as machines come.")
    ] = None,
    drift_from: Annotated[
        str | None,
        typer.Option(
            "--drift-from",
            metavar="OUTPUT",
            help="Warn when quality drifts from what was accepted there, by `matteline review accept`; absent, in --output.",
        ),
    ] = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out every image of a manifest.

    Writes masks, cutouts and an index with quality scores below the output folder. Run the same command again to
    continue where it stopped: items that are done are left alone.
    """
    from pipeline.errors import PipelineError
    from pipeline.run.signals import SignalHandler

    def say(error: Stopped) -> None:
        err.show_cursor()  # which the progress bar has hidden
        show_error(error)

    signals = SignalHandler(say)
    signals.install()  # before anything heavy is imported
    pairs = options.settings(set_, endpoint_url) + ([f"drift.accepted={json.dumps(drift_from)}"] if drift_from else [])
    counts = {"wait_for_gpus": wait_for_gpus, "min_actors": min_actors, "max_actors": max_actors}
    pairs += [f"compute.{name}={count}" for name, count in counts.items() if count is not None]
    try:
        pairs += [f"budget.deadline_s={seconds(deadline)}"] if deadline else []
        settled = options.job_of(manifest, output, preset, job, pairs, allow_root, rendition)
        codes = error_codes(retry)
    except PipelineError as error:
        from pipeline.run.notify import tell_of_refusal

        tell_of_refusal(error, manifest, output)
        raise
    try:
        _run(settled, signals, accept_licence=accept_licence, retry=codes, changed=changed, verbose=verbose)
    finally:
        signals.wait_if_leaving()


def _run(settled: Job, signals: SignalHandler, *, accept_licence: bool, retry: set[str], changed: bool, verbose: bool) -> None:
    from pipeline.errors import ErrorBudgetExceeded
    from pipeline.log import set_up_logging
    from pipeline.output.run_record import read_report
    from pipeline.run.driver import run_job
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    files = Files(settled.storage)
    try:
        plan, _ = run_job(settled, accept_licence=accept_licence, retry=retry, changed=changed, signals=signals)
    except ErrorBudgetExceeded as error:
        # What is in the index is valid, and its table of failures is what a person needs now.
        show_error(error)
        print_report(read_report(files.absolute(settled.output), files))
        raise SystemExit(error.exit_code) from error
    print_report(read_report(plan.layout.folder, files))


def seconds(text: str) -> float:
    """``90s``, ``45m``, ``6h`` or ``1.5d`` in seconds.

    Raises:
        ConfigError: it is none of these.
    """
    from pipeline.errors import ConfigError

    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not number.replace(".", "", 1).isdecimal() or not float(number):
        raise ConfigError(f"--deadline {text}: give a time above 0 with its unit, such as 45m, 6h or 1.5d")
    return float(number) * UNITS[unit]


def error_codes(text: str | None) -> set[str]:
    """``fetch,write`` as a set.

    Raises:
        ConfigError: one of them is no error code.
    """
    from pipeline.errors import ITEM_ERRORS, ConfigError

    codes = {code.strip() for code in (text or "").split(",") if code.strip()}
    known = {error.code for error in ITEM_ERRORS}
    if codes - known:
        raise ConfigError(
            f"--retry {text}: there is no error code {min(codes - known)!r}; there are {', '.join(sorted(known))}"
        )
    return codes
