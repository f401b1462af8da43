"""The runs as tables, in Markdown: what is printed is what ``BENCHMARKS.md`` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps import ITEMS, Run
from workload import TIMES

WAVES = (4, 10, 40)

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


def of_case(setting: str) -> Column:
    """The column of the setting that a sweep moves."""
    return setting, lambda run: f"{getattr(run.case, setting):g}"


def growth(runs: Sequence[Run]) -> str:
    """Runs with more and more GPUs."""
    return table(("GPUs", lambda run: str(run.case.gpus)), [*SPEED, *BUSY, *WHOLE], runs)


def whole_run(run: Run) -> str:
    """One run, a number a line; and what waves would change, were it cut into some."""
    result = run.result
    facts = {
        "GPUs, items a block, items a part, MiB a piece": (
            f"{run.case.gpus}, {run.case.rows_per_block}, {run.case.rows_per_part}, {run.case.block_mib}"
        ),
        "items a second, share of the ideal": f"{result.items_per_s:,.0f}, {run.share:.2f}",
        "hours, $": f"{result.seconds / 3600:.2f}, {cost(run):,.0f}",
        "busy": ", ".join(f"{name} {share:.0%}" for name, share in result.busy.items()),
        "nodes lost": str(result.losses),
        "items through the model again": f"{result.twice:,} ({run.twice:.3%})",
        "items read again": f"{result.read_twice:,} ({run.read_twice:.2%})",
        "items under way at half-time, which a stop of the run costs": f"{result.uncommitted:,}",
        "pieces, tasks, index parts": f"{result.pieces:,}, {result.tasks:,}, {result.parts:,}",
        "driver's records of blocks, GiB": f"{run.records_gib:.1f}",
    }
    for waves in WAVES:
        more_s = (waves - 1) * run.fill_s
        facts[f"in {waves} waves"] = (
            f"{run.records_gib / waves:.1f} GiB of records, {more_s:,.0f} s more ({more_s / result.seconds:.1%})"
        )
    return "\n".join(["| | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in facts.items())])
