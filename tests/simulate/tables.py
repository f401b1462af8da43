"""The runs as tables, in Markdown: what is printed is what ``BENCHMARKS.md`` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps import ITEMS, Run
from workload import TIMES

Column = tuple[str, Callable[[Run], str]]

SPEED: list[Column] = [
    ("items/s", lambda run: f"{run.result.items_per_s:,.0f}"),
    ("of the ideal", lambda run: f"{run.share:.2f}"),
]
BUSY: list[Column] = [
    (f"{name} busy", lambda run, name=name: f"{run.result.busy[name]:.0%}")  # type: ignore[misc]
    for name in ("GPUs", "CPUs", "PUTs", "driver")
]
WHOLE: list[Column] = [
    ("bottleneck", lambda run: run.bottleneck),
    ("redone", lambda run: f"{run.twice:.2%}"),
    ("hours", lambda run: f"{run.seconds_of_all / 3600:.1f}"),
    ("$", lambda run: f"{cost(run):,.0f}"),
]
DRIVER: Column = ("driver's records, GiB", lambda run: f"{run.records_gib:.1f}")
STOP: Column = ("a stop costs, items", lambda run: f"{run.result.uncommitted:,}")
TIDY: Column = ("reading all parts, s", lambda run: f"{run.tidy_s:,.0f}")


def cost(run: Run) -> float:
    """Of a run of ``ITEMS``: the nodes' time, and the requests."""
    prices = TIMES["prices"]
    nodes = run.seconds_of_all / 3600 * run.case.gpus * prices["node_hour"]
    puts = (2 * ITEMS + ITEMS / run.case.rows_per_part) * prices["million_puts"] / 1e6
    return float(nodes + puts + ITEMS * prices["million_gets"] / 1e6)


def table(first: Column, columns: Sequence[Column], runs: Sequence[Run], default: object = None) -> str:
    """One line a run; the default's value is marked."""
    head = [first[0], *(name for name, _ in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "--:|" * len(head)]
    for run in runs:
        value = first[1](run)
        lines.append(
            "| " + " | ".join([f"**{value}**" if value == str(default) else value, *(of(run) for _, of in columns)]) + " |"
        )
    return "\n".join(lines)


def of_case(name: str, label: str) -> Column:
    """The column of the setting that a sweep moves."""
    return label, lambda run: f"{getattr(run.case, name):g}" if name != "items" else f"{run.case.items:,}"
