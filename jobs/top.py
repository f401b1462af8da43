"""Watch a run from its output alone: ``matteline top``."""

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

VERDICT_COLOURS = {"running": "green", "silent": "yellow", "dead": "bold red", "over": "bold"}
BAR_WIDTH = 40


def top(
    output: Annotated[str, typer.Argument(help="A run's output: a folder or a URI.")],
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="The run to show. Default: the latest.")] = None,
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two updates.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Print the status once. Default if stdout is no terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status once, as JSON.")] = False,
    set_: options.StorageSet = None,
    endpoint_url: options.Endpoint = None,
) -> None:
    """Watch a run from any machine that can read its output: progress, speed, failures, and whether it is alive.

    Ends when the run ends. Shows the link to Ray's dashboard if the run's cluster has one.
    """
    from pipeline.log import waiting_for
    from pipeline.output.status import Seen, read_status

    files, seen = options.files_of(set_, endpoint_url), Seen()
    uri, once = files.absolute(output), once or as_json or not out.is_terminal
    status = read_status(uri, files, run_id=run_id, seen=seen)
    if once and status.is_open:
        with waiting_for("watching whether the run renews its lease"):
            while status.is_open:
                time.sleep(1)
                status = read_status(uri, files, run_id=run_id, seen=seen)
    if as_json:
        out.print_json(status.encode())
    elif once or status.verdict == "over":
        out.print(view(status))
    else:
        with suppress(KeyboardInterrupt), Live(view(status), console=out, auto_refresh=False) as live:
            while status.verdict != "over":
                time.sleep(every)
                status = read_status(uri, files, run_id=run_id, seen=seen)
                live.update(view(status), refresh=True)


def view(status: RunStatus) -> RenderableType:
    """Render the status of a run."""
    facts = status.facts
    failures = facts.get("failures") or {}
    parts: list[RenderableType] = [
        Text.from_markup(f"[bold]{escape(status.folder)}[/]"),
        Text.from_markup(f"  run {escape(str(facts['run_id']))}  [{VERDICT_COLOURS[status.verdict]}]{escape(status.said)}[/]"),
    ]
    if "items" in facts:
        parts.append(_bar(facts))
    parts.append(_numbers(status))
    if failures:
        lines = table("code", ">items", "example", "reason")
        for code, entry in sorted(failures.items(), key=lambda one: -one[1]["count"]):
            lines.add_row(code, str(entry["count"]), entry["item_id"], entry["detail"])
        parts.append(lines)
    return Group(*parts)


def _bar(facts: dict[str, Any]) -> RenderableType:
    total, done = facts["items"], facts["done_before"] + _done(facts)
    share = f"{done / total:.1%}" if total else "nothing to do"
    line = Table.grid(padding=(0, 2))
    line.add_row(" ", ProgressBar(total=max(1, total), completed=done, width=BAR_WIDTH), f"{done} of {total}", share)
    return line


def _numbers(status: RunStatus) -> RenderableType:
    facts = status.facts
    counts = f"{facts['ok']} ok, {facts['review']} to review, {facts['failed']} failed"
    before = f", {facts['done_before']} done before" if facts.get("done_before") else ""
    speed = f"{facts['items_per_s']:g} items/s" if facts.get("items_per_s") else "no part finished yet"
    recent = facts.get("recent_items_per_s")
    lately = f", {recent:g} recently" if recent is not None and status.verdict != "over" else ""
    left = f", {span(facts['eta_s'])} left" if facts.get("eta_s") is not None and status.verdict == "running" else ""
    lines = {"items": counts + before}
    if "items_per_s" in facts:
        frames = f", {facts['frames_per_s']:g} frames/s" if facts.get("frames") else ""
        lines["speed"] = speed + lately + frames + left
    if facts.get("frames"):
        more = f", about {facts['frames_left']:,} left" if facts.get("frames_left") else ""
        lines["frames"] = f"{facts['frames']:,} of videos, written{more}"
    if status.sign_age_s is not None and status.verdict != "over":
        lease = "not held" if status.lease_age_s is None else f"renewed {span(status.lease_age_s)} ago"
        ages = f"progress {span(status.progress_age_s or 0)} ago, lease {lease}"
        lines["last seen"] = f"{span(status.sign_age_s)} ago ({ages})"
    if facts.get("error"):
        lines["error"] = facts["error"]
    lines |= {key: facts[key] for key in ("manifest", "started_at", "finished_at", "owner", "dashboard") if facts.get(key)}
    grid = Table.grid(padding=(0, 2))
    for key, value in lines.items():
        grid.add_row(f"  {key.removesuffix('_at')}", Text(str(value), overflow="fold"))
    return grid


def _done(facts: dict[str, Any]) -> int:
    return int(facts["ok"] + facts["review"] + facts["failed"])
