"""The simulated runs as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps import ITEMS, Run, Sweep, defaults
from workload import TIMES

BUSY = ("GPUs", "CPUs", "PUTs", "driver")

COLUMNS: dict[str, Callable[[Run], str]] = {
    "GPUs": lambda run: str(run.case.gpus),
    "items/s": lambda run: f"{run.result.items_per_s:,.0f}",
    "of the ideal": lambda run: f"{run.share:.2f}",
    "mean items/s": lambda run: f"{run.result.mean_items_per_s:,.0f}",
    **{f"{name} busy": lambda run, name=name: f"{run.result.busy[name]:.0%}" for name in BUSY},  # type: ignore[misc]
    "bottleneck": lambda run: max(run.result.busy, key=lambda name: run.result.busy[name]),
    "resegmented": lambda run: f"{run.resegmented:.2%}",
    "reread": lambda run: f"{run.reread:.2%}",
    "tasks per 1,000 items": lambda run: f"{1e3 * run.result.tasks / run.result.items:.0f}",
    "driver's records, GiB": lambda run: f"{run.records_gib:.1f}",
    "in flight": lambda run: f"{run.result.in_flight:,}",
    "reading all parts, s": lambda run: f"{run.read_parts_s:,.0f}",
    "hours": lambda run: f"{run.total_s / 3600:.1f}",
    "$": lambda run: f"{cost(run):,.0f}",
}
"""Column by name: a run's value as text."""

GROWTH = ("GPUs", "items/s", "of the ideal", *(f"{name} busy" for name in BUSY), "bottleneck", "resegmented", "hours", "$")


def cost(run: Run) -> float:
    """Return the US dollars of a run of ``ITEMS``: the nodes' time and the requests."""
    prices = TIMES["prices"]
    nodes = run.total_s / 3600 * run.case.gpus * prices["node_hour"]
    puts = (2 * ITEMS + ITEMS / run.case.rows_per_part) * prices["million_puts"] / 1e6
    return float(nodes + puts + ITEMS * prices["million_gets"] / 1e6)


def table(names: Sequence[str], runs: Sequence[Run]) -> str:
    """Return one line per run, with these columns."""
    return markdown(names, [[COLUMNS[name](run) for name in names] for run in runs])


def sweep_table(sweep: Sweep, runs: Sequence[Run]) -> str:
    """Return one line per value; the product's default is bold."""
    default = getattr(defaults(), sweep.setting, None)
    values = [getattr(run.case, sweep.setting) for run in runs]
    cells = [f"**{value:g}**" if value == default else f"{value:g}" for value in values]
    rows = [[cell, *(COLUMNS[name](run) for name in sweep.columns)] for cell, run in zip(cells, runs, strict=True)]
    return markdown([sweep.setting, *sweep.columns], rows)


def large_run(run: Run) -> str:
    """Return the facts of one run, one per line."""
    result, case = run.result, run.case
    facts = {
        "GPUs, items per block, items per part, MiB per piece": (
            f"{case.gpus}, {case.rows_per_block}, {case.rows_per_part}, {case.block_mib}"
        ),
        "items/s, share of the ideal": f"{result.items_per_s:,.0f}, {run.share:.2f}",
        "hours, $": f"{result.seconds / 3600:.2f}, {cost(run):,.0f}",
        "busy": ", ".join(f"{name} {share:.0%}" for name, share in result.busy.items()),
        "nodes lost": str(result.losses),
        "items through the model again": f"{result.resegmented:,} ({run.resegmented:.3%})",
        "items read again": f"{result.reread:,} ({run.reread:.2%})",
        "items in flight at half-time, which a stop of the run loses": f"{result.in_flight:,}",
        "pieces, tasks, index parts": f"{result.pieces:,}, {result.tasks:,}, {result.parts:,}",
        "driver's records of blocks, GiB": f"{run.records_gib:.1f}",
    }
    return markdown(["", ""], list(facts.items()))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "--:|" * len(head), *lines])
