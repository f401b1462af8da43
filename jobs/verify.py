"""``matteline verify``: does an output keep its promise?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jobs import options
from jobs.console import out, table

if TYPE_CHECKING:
    from pipeline.output.run_record import RecipeReport
    from pipeline.output.verify import VerifyReport
    from pipeline.storage.files import Files


def verify(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    manifest: Annotated[
        str | None, typer.Option("--manifest", "-m", help="What should be in it; absent, the manifest of the last run.")
    ] = None,
    sample: Annotated[float, typer.Option("--sample", min=0, max=1, help="Share of the items whose objects are read.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Check that every item of the manifest has one row, and every row its objects, whole. Exit code 1 if not."""
    from pipeline.errors import ConfigError
    from pipeline.output.run_record import read_report

    files = options.files_of(set_, endpoint_url)
    reports = read_report(files.absolute(output), files)
    if not reports:
        raise ConfigError(f"no results under {files.absolute(output)}; nothing to verify")
    results = {report.layout.folder: _report(report, manifest, sample, files) for report in reports}
    if as_json:
        out.print_json(json.dumps({folder: asdict(result) | {"sound": result.sound} for folder, result in results.items()}))
    else:
        for folder, result in results.items():
            _print_report(folder, result)
    raise SystemExit(0 if all(result.sound for result in results.values()) else 1)


def _report(report: RecipeReport, manifest: str | None, sample: float, files: Files) -> VerifyReport:
    from pipeline.manifest.manifest import open_manifest
    from pipeline.output.verify import verify as check
    from pipeline.paths import example_path

    named = example_path(manifest) if manifest else report.last_run and report.last_run.get("manifest")
    return check(report.layout, files, open_manifest(named, files) if named else None, sample=sample)


def _print_report(folder: str, result: VerifyReport) -> None:
    from pipeline.output.verify import KINDS

    out.print(f"[bold]{escape(folder)}[/]")
    out.print(f"  {result.rows} rows; {result.objects} objects read, {result.object_bytes / 1e6:.1f} MB")
    out.print("  [green]sound[/]" if result.sound else "  [bold red]not sound[/]")
    if not result.sound:
        findings = table("finding", ">count", "what", "for example")
        for kind, count in result.counts.items():
            findings.add_row(kind, str(count), KINDS[kind], escape(result.examples[kind][0]))
        out.print(findings)
