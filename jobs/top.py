"""``matteline top``: how a run is getting on, from its output alone."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs import options
from jobs.console import out, span, table

if TYPE_CHECKING:
    from pipeline.output.status import RunStatus

COLOURS = {"running": "green", "silent": "yellow", "dead": "bold red", "over": "bold"}
BAR = 40


def top(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="This run; absent, the latest.")] = None,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once; so it is too where there is no terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, once.")] = False,
    set_: options.Set = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Watch a run from anywhere that its output can be read: how far, how fast, what fails, and whether it lives.

    Ends when the run has. Ray's own dashboard is linked where the run's cluster has one.
    """
    from pipeline.output.status import look

    files = options.files_of(set_, endpoint_url)
    where = files.absolute(output)
    sight = look(where, files, run_id=run_id)
    if as_json:
        out.print_json(sight.encode())
    elif once or not out.is_terminal or sight.verdict == "over":
        out.print(view(sight))
    else:
        with suppress(KeyboardInterrupt), Live(view(sight), console=out, auto_refresh=False) as live:
            while sight.verdict != "over":
                time.sleep(every)
                sight = look(where, files, run_id=run_id)
                live.update(view(sight), refresh=True)


def view(sight: RunStatus) -> RenderableType:
    """One run on a screen."""
    facts = sight.facts
    failures = facts.get("failures") or {}
    parts: list[RenderableType] = [
        Text.from_markup(f"[bold]{escape(sight.folder)}[/]"),
        Text.from_markup(f"  run {escape(str(facts['run_id']))}  [{COLOURS[sight.verdict]}]{escape(sight.said)}[/]"),
    ]
    if "items" in facts:
        parts.append(_bar(facts))
    parts.append(_numbers(sight))
    if failures:
        listing = table("code", ">items", "for example", "why")
        for code, entry in sorted(failures.items(), key=lambda one: -one[1]["count"]):
            listing.add_row(code, str(entry["count"]), escape(entry["item_id"]), escape(entry["detail"]))
        parts.append(listing)
    return Group(*parts)


def _bar(facts: dict[str, Any]) -> RenderableType:
    total, done = facts["items"], facts["done_before"] + _done(facts)
    share = f"{done / total:.1%}" if total else "nothing to do"
    line = Table.grid(padding=(0, 2))
    line.add_row(" ", ProgressBar(total=max(1, total), completed=done, width=BAR), f"{done} of {total}", share)
    return line


def _numbers(sight: RunStatus) -> RenderableType:
    facts = sight.facts
    counts = f"{facts['ok']} ok, {facts['review']} to review, {facts['failed']} failed"
    before = f", {facts['done_before']} done before" if facts.get("done_before") else ""
    speed = f"{facts['items_per_s']:g} items/s" if facts.get("items_per_s") else "no part finished yet"
    recent = facts.get("recent_items_per_s")
    lately = f", {recent:g} of late" if recent is not None and sight.verdict != "over" else ""
    left = f", {span(facts['eta_s'])} left" if facts.get("eta_s") is not None and sight.verdict == "running" else ""
    lines = {"items": counts + before}
    if "items_per_s" in facts:
        lines["speed"] = speed + lately + left
    if sight.sign_age_s is not None and sight.verdict != "over":
        lease = "not held" if sight.lease_age_s is None else f"renewed {span(sight.lease_age_s)} ago"
        told = f"progress {span(sight.progress_age_s or 0)} ago, lease {lease}"
        lines["sign"] = f"last of life {span(sight.sign_age_s)} ago ({told})"
    if facts.get("error"):
        lines["error"] = facts["error"]
    lines |= {key: facts[key] for key in ("manifest", "started_at", "finished_at", "owner", "dashboard") if facts.get(key)}
    grid = Table.grid(padding=(0, 2))
    for key, value in lines.items():
        grid.add_row(f"  {key.removesuffix('_at')}", Text(str(value), overflow="fold"))
    return grid


def _done(facts: dict[str, Any]) -> int:
    return int(facts["ok"] + facts["review"] + facts["failed"])
