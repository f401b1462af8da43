"""What the tests here share: the helpers' folder, and the long simulations and the real runs, made once and told."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent
OUT = FOLDER.parents[2] / "out" / "simulate"

sys.path.append(str(FOLDER))  # tests are no package


def tell(title: str, text: str) -> None:
    """Print a table, and add it to ``out/simulate/tables.md``."""
    said = f"\n{title}\n\n{text}\n"
    print(said, flush=True)
    with (OUT / "tables.md").open("a", encoding="utf-8") as tables:
        tables.write(said)


@pytest.fixture(scope="session")
def out() -> Path:
    """Where everything goes, empty."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "tables.md").write_text("", encoding="utf-8")
    return OUT


@pytest.fixture(scope="session")
def pairs(out: Path, tmp_path_factory: pytest.TempPathFactory, fake_preset: str) -> Any:
    """Real runs on one, two and three nodes, and the same simulated; by what bounds them and the number of nodes."""
    from comparison import compare, table

    found = list(compare(tmp_path_factory.mktemp("nodes"), fake_preset))
    tell("Real runs on this machine, whose stages sleep, and the same simulated", table(found))
    return {(pair.bound, pair.nodes): pair for pair in found}


@pytest.fixture(scope="session")
def whole(out: Path) -> Any:
    """The run that all of it is about: ten million items on 64 GPUs, with preemptions, throttling and a long tail."""
    from sweeps import ITEMS, Case, simulate
    from tables import whole_run

    start = time.perf_counter()
    run = simulate(Case(items=ITEMS))
    tell(f"{ITEMS:,} items, simulated in {time.perf_counter() - start:.0f} s", whole_run(run))
    return run


@pytest.fixture(scope="session")
def growing(out: Path) -> Any:
    """The same run with 1 to 256 GPUs, and with the pieces of small runs from 64 on."""
    from sweeps import USUAL, more_gpus
    from tables import growth

    from pipeline.run.graph import BLOCK_MIB

    runs = more_gpus()
    tell("More and more GPUs", growth(runs))
    smaller = more_gpus((USUAL, 2 * USUAL, 4 * USUAL), block_mib=BLOCK_MIB)
    tell(f"The same with pieces of {BLOCK_MIB} MiB", growth(smaller))
    return runs


@pytest.fixture(scope="session")
def sweeps(out: Path, growing: Any) -> Any:
    """Runs by the setting that was moved; with the picture of all of them."""
    from drawing import draw
    from questions import QUESTIONS, answer, ask

    found = {}
    for question in QUESTIONS:
        found[question.setting] = ask(question)
        tell(question.title, answer(question, found[question.setting]))
    drawn = ("rows_per_block", "rows_per_part", "block_mib")
    draw(growing, {name: found[name] for name in drawn}, out / "simulate.png")
    numbers = {name: [asdict(run.case) | run.numbers() for run in runs] for name, runs in (found | {"gpus": growing}).items()}
    (out / "runs.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return found
