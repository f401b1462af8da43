"""``matteline detect``: find objects by name, and write a manifest with their boxes."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs import options
from jobs.console import err, out


def detect(
    manifest: options.Manifest = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    box_column: options.BoxColumn = None,
    boxes_column: options.BoxesColumn = None,
    label_column: options.LabelColumn = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Parquet file to write: path or URI that ends in .parquet.")
    ] = None,
    label: options.Label = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", "-p", help="With recipe.detector.many=each: the model that finds the objects without names."),
    ] = None,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
    allow_root: options.AllowRoot = None,
    retry: options.Retry = None,
    accept_licence: options.AcceptLicence = False,
    verbose: options.Verbose = False,
) -> None:
    """Find objects by name, and write a manifest with one row per box.

    The names are those of the manifest's columns label and labels, or of --label. Look at the boxes, then cut them out with
    matteline run --manifest OUTPUT. The same command continues an interrupted one.
    """
    from pipeline.detect.driver import detect as work
    from pipeline.errors import ConfigError
    from pipeline.log import set_up_logging
    from pipeline.run.stages.process import keep_pandas_out

    keep_pandas_out()
    set_up_logging(verbose=verbose)
    pairs = options.settings(set_, endpoint_url) + options.label_settings(label)
    pairs += options.run_settings(retry, accept_licence=accept_licence)
    pairs += options.column_settings(image_column, id_column, box_column, boxes_column, label_column)
    job = options.job_of(manifest, output, preset, None, pairs, allow_root)
    if preset and (job.recipe.detector is None or job.recipe.detector.many != "each"):
        raise ConfigError(
            f"--preset {preset} finds objects without names; add --set recipe.detector.many=each, or remove --preset"
        )
    summary = work(job, job.output.uri)
    out.print(f"{job.output.uri}: {summary.boxes} boxes of {summary.items} items, {summary.failed} failed", markup=False)
    for code, count in sorted(summary.failures.items()):
        err.print(f"{count} failed with the code {code}, for instance: {summary.examples[code]}", markup=False)
    summary.check(job.budget)
