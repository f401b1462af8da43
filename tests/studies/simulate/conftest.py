"""The simulated and the real runs, each made once; their tables go to ``out/simulate/tables.md``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Report = Callable[[str, str], None]


@pytest.fixture(scope="session")
def report(results: Callable[[str], Path]) -> Report:
    """``report(title, table)``: print a table, and append it to ``tables.md``, which starts empty."""
    path = results("simulate") / "tables.md"
    path.write_text("", encoding="utf-8")

    def add(title: str, table: str) -> None:
        text = f"\n{title}\n\n{table}\n"
        print(text, flush=True)
        with path.open("a", encoding="utf-8") as tables:
            tables.write(text)

    return add


@pytest.fixture(scope="session")
def pairs(report: Report, tmp_path_factory: pytest.TempPathFactory, fake_preset: str) -> Any:
    """Real runs and the same simulated, by bottleneck and number of nodes."""
    from comparison import compare, table

    found = list(compare(tmp_path_factory.mktemp("nodes"), fake_preset))
    report("Real runs on this machine, whose stages sleep, and the same simulated", table(found))
    return {(pair.bottleneck, pair.nodes): pair for pair in found}


@pytest.fixture(scope="session")
def large(report: Report) -> Any:
    """Ten million items on 64 GPUs, with preemptions, throttling and large images."""
    from sweep_tables import large_run
    from sweeps import ITEMS, Case, simulate

    start = time.perf_counter()
    run = simulate(Case(items=ITEMS))
    report(f"{ITEMS:,} items, simulated in {time.perf_counter() - start:.0f} s", large_run(run))
    return run


@pytest.fixture(scope="session")
def sweeps(report: Report) -> Any:
    """Runs by the setting that was moved, and tables of more and more GPUs."""
    from sweep_tables import GROWTH, sweep_table, table
    from sweeps import SWEEPS, USUAL_GPUS, more_gpus

    from pipeline.run.block_sizes import BLOCK_MIB

    report("More and more GPUs", table(GROWTH, more_gpus()))
    small_pieces = more_gpus((USUAL_GPUS, 2 * USUAL_GPUS, 4 * USUAL_GPUS), block_mib=BLOCK_MIB)
    report(f"The same with pieces of {BLOCK_MIB} MiB, as in small runs", table(GROWTH, small_pieces))
    runs = {}
    for sweep in SWEEPS:
        runs[sweep.setting] = sweep.runs()
        report(sweep.title, sweep_table(sweep, runs[sweep.setting]))
    return runs
