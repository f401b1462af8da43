"""Check that an output is complete and intact: ``matteline verify``."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.concurrency import Each
    from pipeline.config.columns import Columns
    from pipeline.output.findings import VerifyReport
    from pipeline.output.output import Output


def verify(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    manifest: Annotated[
        str | None, typer.Option("--manifest", "-m", help="The items to expect. Default: the manifest of the last run.")
    ] = None,
    image_column: options.ImageColumn = None,
    id_column: options.IdColumn = None,
    box_column: options.BoxColumn = None,
    boxes_column: options.BoxesColumn = None,
    sample: Annotated[float, typer.Option("--sample", min=0, max=1, help="Share of the items whose files are read.")] = 1.0,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Read all files, and remove the rows of items with damaged or missing ones: the next run makes them again.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    allow_root: options.AllowRoot = None,
    set_: options.PassSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Check that every item of the manifest has one row, and that all files of every row are intact.

    If not, the exit code is 1. Run it again to continue an interrupted check with the files that were not read yet.

    --repair removes unreadable index parts and the rows of damaged items, so that the next run makes these items again.
    """
    from pipeline.log import set_up_logging
    from pipeline.output.output import open_outputs
    from pipeline.run.each import workers

    set_up_logging()
    columns = options.columns_of(image_column, id_column, box_column, boxes_column)
    files, compute = options.files_and_compute_of(set_, endpoint_url, allow_root)
    outputs = open_outputs(output, files)
    with workers(compute, outputs, 1.0 if repair else sample) as each:
        reports = {one.folder: _verify(one, manifest, columns, sample, repair, each) for one in outputs}
    if as_json:
        out.print_json(json.dumps({folder: asdict(report) | {"sound": report.sound} for folder, report in reports.items()}))
    else:
        for folder, report in reports.items():
            _print_report(folder, report, repaired=repair)
    raise SystemExit(0 if all(report.sound for report in reports.values()) else 1)


def _verify(output: Output, manifest: str | None, columns: Columns, sample: float, mend: bool, each: Each) -> VerifyReport:
    from pipeline.config.columns import Columns
    from pipeline.config.sections import build
    from pipeline.manifest.manifest import open_manifest
    from pipeline.output.lease import new_run_id, run_id_after
    from pipeline.output.run_record import last_run
    from pipeline.output.verify import repair
    from pipeline.output.verify import verify as check
    from pipeline.paths import example_path
    from pipeline.storage.files import Files
    from pipeline.video.extra import video_reader

    last, files = last_run(output) or {}, output.files
    uri = files.absolute(example_path(manifest)) if manifest else last.get("manifest")
    if uri == last.get("manifest"):
        if columns == Columns():
            columns = build(Columns, last.get("columns") or {}, "the record of the last run")
        roots = (*files.storage.allow_roots, *(last.get("allow_roots") or ()))
        files = Files(files.storage.model_copy(update={"allow_roots": roots}))
    opened = open_manifest(uri, files, chosen=columns) if uri else None
    if mend:
        return repair(output, run_id_after(new_run_id(), output), opened, each=each, read_video=video_reader())
    return check(output, opened, sample=sample, each=each, read_video=video_reader())


def _print_report(folder: str, report: VerifyReport, *, repaired: bool) -> None:
    from pipeline.output.findings import KINDS

    out.print(f"[bold]{escape(folder)}[/]")
    out.print(f"  {report.rows} rows; {report.objects} objects read, {report.object_bytes / 1e6:.1f} MB")
    out.print("  [green]sound[/]" if report.sound else "  [bold red]not sound[/]")
    if not report.sound:
        findings = table("finding", ">count", "meaning", "example")
        for kind, count in report.counts.items():
            findings.add_row(kind, str(count), KINDS[kind], report.examples[kind][0])
        out.print(findings)
    if repaired:
        again = "run the same command as before to make these items again"
        out.print(
            f"  {report.repaired} rows were removed; {again if report.repaired else 'no file of a row is damaged or missing'}"
        )
    elif report.repairable:
        out.print(f"  to repair it: matteline verify --repair {shlex.quote(folder)}, then the same run again", markup=False)
