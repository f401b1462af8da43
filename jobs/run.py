"""``matteline run``: cut out every image of a manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import options
from jobs.console import err, print_report, show_error

if TYPE_CHECKING:
    from pipeline.config.job import Job
    from pipeline.errors import Stopped
    from pipeline.run.signals import SignalHandler


def run(
    manifest: options.Manifest = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    box_column: options.BoxColumn = None,
    boxes_column: options.BoxesColumn = None,
    label_column: options.LabelColumn = None,
    output: options.Output = None,
    label: options.Label = None,
    preset: options.Preset = None,
    rendition: options.Renditions = None,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    retry: options.Retry = None,
    changed: options.Changed = False,
    replace: options.Replace = False,
    deadline: options.Deadline = None,
    wait_for_gpus: Annotated[
        int | None,
        typer.Option(
            "--wait-for-gpus",
            metavar="N",
            help="Wait for N GPUs, for at most compute.wait_s seconds. Then use the GPUs that there are.",
        ),
    ] = None,
    min_actors: Annotated[
        int | None,
        typer.Option(
            "--min-actors",
            metavar="N",
            help="Stop if the cluster has room for fewer than N actors (model processes). The same command continues the run.",
        ),
    ] = None,
    max_actors: Annotated[
        int | None, typer.Option("--max-actors", metavar="N", help="Add actors, up to N, when machines join the cluster.")
    ] = None,
    drift_from: options.DriftFrom = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Keep going: process images as they come, until Ctrl-C or SIGTERM."),
    ] = False,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="TIME", help="Time between two looks of --watch at the manifest. Default: 5s."),
    ] = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out every image and video of a manifest.

    Writes masks, cutouts and an index with quality scores to the output.

    Run the same command again to continue a stopped run. Items in the index are skipped, failed ones too (see --retry).
    """
    from pipeline.errors import PipelineError
    from pipeline.log import set_up_logging
    from pipeline.run.signals import SignalHandler

    def report(error: Stopped) -> None:
        err.show_cursor()  # the progress bar hides it
        show_error(error)

    signals = SignalHandler(report)
    signals.install()  # before slow imports
    pairs = options.settings(set_, endpoint_url)
    pairs += options.column_settings(image_column, id_column, box_column, boxes_column, label_column)
    counts = {"wait_for_gpus": wait_for_gpus, "min_actors": min_actors, "max_actors": max_actors}
    pairs += [f"compute.{name}={count}" for name, count in counts.items() if count is not None]
    pairs += options.run_settings(retry, changed=changed, replace=replace, accept_licence=accept_licence)
    try:
        pairs += options.label_settings(label) + options.limit_settings(deadline, drift_from)
        parsed = options.job_of(manifest, output, preset, job, pairs, allow_root, rendition)
        interval_s = watch_interval(watch, interval)
    except PipelineError as error:
        from pipeline.run.notify import notify_refused

        notify_refused(error, manifest, output)
        raise
    set_up_logging(verbose=verbose)
    try:
        if interval_s is None:
            _run(parsed, signals)
        else:
            _watch(parsed, signals, interval_s)
    finally:
        signals.wait_if_leaving()


def _run(parsed: Job, signals: SignalHandler) -> None:
    from pipeline.run.worker_process import start_ahead

    start_ahead(parsed)  # before slow imports

    from pipeline.errors import ErrorBudgetExceeded
    from pipeline.output.output import find_outputs
    from pipeline.output.run_record import report_of
    from pipeline.run.driver import run_job
    from pipeline.run.stages.process import keep_pandas_out
    from pipeline.storage.files import Files

    keep_pandas_out()
    files = Files(parsed.storage)
    try:
        plan, _ = run_job(parsed, signals=signals)
    except ErrorBudgetExceeded as error:
        # The index is valid, and its table of failures shows what to fix.
        show_error(error)
        print_report([report_of(output) for output in find_outputs(files.absolute(parsed.output.uri), files)])
        raise SystemExit(error.exit_code) from error
    print_report([report_of(plan.output)])


def _watch(parsed: Job, signals: SignalHandler, interval_s: float) -> None:
    from pipeline.output.run_record import report_of
    from pipeline.run.watch import watch

    print_report([report_of(watch(parsed, interval_s=interval_s, signals=signals))])


def watch_interval(watch: bool, text: str | None) -> float | None:
    """Return the seconds between two looks of a watch; None without ``--watch``.

    Raises:
        ConfigError: The text is not a time, or there is no watch.
    """
    from pipeline.errors import ConfigError

    if text and not watch:
        raise ConfigError("--interval is the time between two looks of --watch; add --watch")
    if not watch:
        return None
    if text:
        return options.seconds(text, "--interval")
    from pipeline.run.watch import INTERVAL_S

    return INTERVAL_S
