"""Print messages, tables and reports on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.log import SafeConsole

if TYPE_CHECKING:
    from pipeline.errors import PipelineError
    from pipeline.models.cascade import Look
    from pipeline.output.run_record import RecipeReport
    from pipeline.output.summary import Summary

DOUBTFUL = 0.4
"""Score below which a detector's box is often wrong (configs/README.md)."""

MAX_REMARKS = 5
"""Most frequent remarks about a rendition that are printed."""

out = SafeConsole(soft_wrap=True, highlight=False)
err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)


def echo(text: str) -> None:
    """Print a file's content to stdout as it is, to be read by a program."""
    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        out.on_broken_pipe()


def show_error(error: PipelineError) -> None:
    """Print an error to stderr."""
    err.print(f"[bold red]error:[/] {escape(str(error))}")


class PlainTable(Table):
    """A table whose texts are shown as they are: ``[bold]`` in a path is no markup."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of texts, or of anything that Rich shows."""
        super().add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table. Columns whose name starts with ``>`` are right-aligned."""
    made = PlainTable(title=title and Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(Text(column.lstrip(">")), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def describe_found(box: Sequence[float], score: float, label: str) -> str:
    """Say where a detector found an object, and whether the box is doubtful."""
    corners = ",".join(f"{value:.0f}" for value in box)
    doubt = "; it may be wrong: look at the cutout, or name the place with --box" if score < DOUBTFUL else ""
    return f"found {label!r} in the box {corners} with a score of {score:.2f}{doubt}"


def describe_looks(looks: Sequence[Look], agreement: float) -> str:
    """Say what each of two models thought of a picture that both saw, and whose mask is used."""
    seen = ", ".join(f"{one.model} with a quality of {one.quality:.2f}{' (used)' if one.used else ''}" for one in looks)
    return f"seen by {seen}; agreement of the two masks {agreement:.2f}"


def span(seconds: float) -> str:
    """Format a duration: ``42 s``, ``7 min``, ``3 h 05 min``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min" if seconds > 90 else f"{max(0.0, seconds):.0f} s"


def shortened(uri: str) -> str:
    """Return a local path below the current folder relative to it; anything else as it is."""
    return uri.removeprefix(f"{Path.cwd()}/")


def print_report(reports: Sequence[RecipeReport]) -> None:
    """Print where the results are, and the items by status."""
    if not reports:
        out.print("no results yet")
    for report in reports:
        _print_recipe(report)


def _print_recipe(report: RecipeReport) -> None:
    from pipeline.output.run_record import speed_of
    from pipeline.quality.reasons import explain
    from pipeline.schema import STATUSES

    summary, layout, run = report.summary, report.output.layout, report.last_run
    counts = {status: summary.counts.get(status, 0) for status in STATUSES}
    out.print(f"[bold]{escape(layout.folder)}[/]")
    out.print(f"  {sum(counts.values())} items: {counts['ok']} ok, {counts['review']} to review, {counts['failed']} failed")
    if summary.quality_deciles:
        low, mid = summary.quality_deciles[1], summary.quality_deciles[5]
        out.print(
            f"  quality: median {mid:.2f}, a tenth below {low:.2f} ({'calibrated' if summary.calibrated else 'uncalibrated'})"
        )
    if summary.first_looks:
        share = summary.second_looks / summary.first_looks
        out.print(f"  second model: saw {summary.second_looks} of {summary.first_looks} items ({share:.0%})")
    if expected := summary.expected.describe():
        out.print(f"  {expected}")
    if run:
        out.print(f"  last run {escape(str(run['run_id']))}: {escape(str(run['outcome']))} in {speed_of(run)}")
        if (drift := run.get("drift")) and drift["drifted"]:
            out.print(f"  [yellow]drift[/]    {escape(drift['said'])}; compared with {escape(drift['against'])}")
    videos = summary.videos
    made = counts["ok"] + counts["review"] - videos.count
    for kind, path in summary.examples.items():
        rest = f" and {made - 1} more" if made > 1 else ""
        out.print(f"  {kind + 's':8} {escape(shortened(layout.uri(path)))}{rest}")
    if videos.count:
        rest = f" and {videos.count - 1} more" if videos.count > 1 else ""
        numbers = f"{videos.frames:,} frames, {span(videos.seconds)}"
        out.print(f"  videos   {escape(shortened(layout.uri(videos.example or '')))}{rest}: {numbers}")
    out.print(f"  index    {escape(shortened(layout.index))}")
    if summary.reasons:
        reasons = table(">items", "what lowered the quality", "signal")
        for name, count in sorted(summary.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
            reasons.add_row(str(count), explain(name), name)
        out.print(reasons)
    if summary.remarks:
        out.print(_remarks(summary))
    if summary.failures:
        failures = table("code", ">items", "example", "reason")
        for code, entry in sorted(summary.failures.items()):
            failures.add_row(code, str(entry.count), entry.item_id, entry.detail)
        out.print(failures)


def _remarks(summary: Summary) -> Table:
    """Return a table of the remarks about each rendition, the most frequent first."""
    shown = table("rendition", ">items", "remark")
    for name, found in sorted(summary.remarks.items()):
        for note, count in sorted(found.notes.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_REMARKS]:
            shown.add_row(name, f"{count:,} of {found.items:,}", note)
    return shown
