"""``matteline run``: a manifest in; masks, cutouts and an index out. ``python -m jobs.cut_out`` is the same."""

from __future__ import annotations

from jobs import options
from jobs.console import print_report, show_error


def run(
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: options.Preset = None,
    set_: options.Set = None,
    job: options.JobFile = None,
    endpoint_url: options.Endpoint = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Cut out every image of a manifest.

    Writes masks, cutouts and an index with quality scores below the output folder. Run the same command again to
    continue where it stopped: items that are done are left alone.
    """
    from pipeline.config import load_job
    from pipeline.errors import ErrorBudgetExceeded
    from pipeline.examples import bundled
    from pipeline.log import set_up_logging
    from pipeline.report import read_report
    from pipeline.run import run_job
    from pipeline.storage.files import Files

    set_up_logging(verbose=verbose)
    chosen = options.settings(set_, endpoint_url)
    settled = load_job(
        manifest=bundled(manifest) if manifest else None, output=output, preset=preset, overrides=chosen, job_file=job
    )
    files = Files(settled.storage)
    try:
        plan, _ = run_job(settled, accept_licence=accept_licence)
    except ErrorBudgetExceeded as error:
        # What is in the index is valid, and its table of failures is what a person needs now.
        show_error(error)
        print_report(read_report(files.absolute(settled.output), files))
        raise SystemExit(error.exit_code) from error
    print_report(read_report(plan.layout.folder, files))


if __name__ == "__main__":
    import sys

    from jobs.main import main

    sys.argv.insert(1, "run")
    main()
