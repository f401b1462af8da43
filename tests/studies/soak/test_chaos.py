"""``make soak FAULTS=1``: nothing is lost and nothing doubled by many faults, in a long run and in small increments."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from typing import Any

import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(4 * 3600)]  # the first test waits for the runs

REDONE = 512
"""Items per fault that may go through the model again: what a run has in hand between the model and the index."""

LEFT_S = 60.0
"""How long processes may outlive their run."""

READ = 20_000
"""Objects that verify reads, about."""


def ask(suffered: Any, matteline: str, command: str, *options: str) -> Any:
    """Return what a command says about the output, as JSON."""
    words = [matteline, command, suffered.chaos.trial.place.output, *options, "--json"]
    done = subprocess.run(words, stdout=subprocess.PIPE, env=suffered.env, check=False)
    (report,) = json.loads(done.stdout).values()
    return report


def test_every_fault_has_happened(suffered: Any, bars: Any) -> None:
    happened = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(suffered.chaos.faults).items()))
    bars.at_least(f"{suffered.name}: faults ({happened}) in {suffered.chaos.trial.runs} runs", len(suffered.chaos.faults), 4)
    bars.at_most(f"{suffered.name}: faults that came after the end of their run", len(suffered.chaos.missed), 0)


def test_runs_end_as_their_faults_explain(suffered: Any, bars: Any) -> None:
    chaos = suffered.chaos
    bars.at_most("; ".join([f"{suffered.name}: runs that ended otherwise", *chaos.unexplained]), len(chaos.unexplained), 0)
    crashed = [number for number in range(1, chaos.trial.runs + 1) if "Traceback" in chaos.trial.said(number)]
    bars.at_most(f"{suffered.name}: runs with a traceback {crashed or ''}", len(crashed), 0)


def test_every_item_is_there_once(suffered: Any, bars: Any) -> None:
    index = suffered.chaos.index()
    ids = Counter(index["item_id"].to_pylist())
    expected = {f"item-{number:08}" for number in range(suffered.items)}
    bars.at_most(f"{suffered.name}: items without a row, of {suffered.items}", len(expected - ids.keys()), 0)
    bars.at_most(f"{suffered.name}: rows too many", index.num_rows - len(expected & ids.keys()), 0)
    bars.at_most(f"{suffered.name}: items that failed", sum(status == "failed" for status in index["status"].to_pylist()), 0)


def test_few_items_are_redone(suffered: Any, bars: Any) -> None:
    chaos = suffered.chaos
    redone = chaos.frames() - suffered.items
    bars.at_least(f"{suffered.name}: items redone", redone, 0)
    bars.at_most(f"{suffered.name}: items redone per fault", redone / len(chaos.faults), REDONE)


def test_no_process_is_left(suffered: Any, bars: Any) -> None:
    from trial import outside_roots, title

    deadline = time.monotonic() + LEFT_S
    while (left := outside_roots(suffered.chaos.trial.sessions)) and time.monotonic() < deadline:
        time.sleep(1)
    titles = "".join(f", {title(process)[:80]}" for process in left)
    bars.at_most(f"{suffered.name}: processes that outlived their run by more than {LEFT_S:.0f} s{titles}", len(left), 0)


def test_verify_and_gc_find_nothing(suffered: Any, bars: Any, matteline: str) -> None:
    verify = ("verify", "--manifest", suffered.manifest, "--sample", f"{min(1, READ / suffered.items):.3f}")
    bars.at_most(f"{suffered.name}: findings of matteline verify", sum(ask(suffered, matteline, *verify)["counts"].values()), 0)
    garbage = ask(suffered, matteline, "gc", "--min-age", "0", "--delete")["files"]
    bars.at_most(
        f"{suffered.name}: objects without a row ({garbage['part']} replaced parts, {garbage['temporary']} partial files)",
        garbage["object"],
        0,
    )
    left = ask(suffered, matteline, "gc", "--min-age", "0")["files"]
    bars.at_most(f"{suffered.name}: garbage that matteline gc --delete has left", sum(left.values()), 0)
    bars.at_most(
        f"{suffered.name}: findings of matteline verify after it", sum(ask(suffered, matteline, *verify)["counts"].values()), 0
    )
    bars.at_most(f"{suffered.name}: notes of overwrites", len(suffered.chaos.files("_matteline/overwrites")), 0)
