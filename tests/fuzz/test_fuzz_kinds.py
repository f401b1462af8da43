"""Files from strangers and damaged stores are read, or refused with one sentence: no other exception, crash, hang or memory.

A failure is reported by kind, seed and number: ``sample(load_kind(KIND), SEED, NUMBER)`` in ``kinds.py`` generates it again.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kinds import COUNTS
from trials import Outcome, run_trials

TRIAL = Path(__file__).with_name("trial.py")
SEED = os.environ.get("SEED", "1")
CHUNK = 1_000
"""Files per process, at most: many, so that leaked memory adds up."""
MAX_GROWTH_MIB = 128
"""Growth of a process's memory over a chunk."""


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    """Return the outcomes that must not be: also a valid sample that is refused."""
    return [one for one in outcomes if one.what != "read" and (one.what != "refused" or one.name.startswith("valid"))]


def check(bars: Any, kind: str, outcomes: list[Outcome]) -> None:
    found = failures(outcomes)
    example = f" (file {found[0].number}, {found[0].name}: {found[0].what[:300]})" if found else ""
    bars.at_most(f"{kind}: failures{example}", len(found), 0)
    bars.at_most(f"{kind}: memory growth in MiB", max(one.growth_mib for one in outcomes), MAX_GROWTH_MIB)


MAX_SAMPLES = 9
"""Valid samples of a kind, at most."""
FEW = 3
"""Damaged files of each kind outside the study."""


def test_some_damaged_files_of_every_kind(bars: Any) -> None:
    """One process reads a few damaged files of each kind, after the valid samples, which it must accept to begin at all."""
    outcomes = list(run_trials(TRIAL, ",".join(COUNTS), SEED, MAX_SAMPLES * len(COUNTS), FEW * len(COUNTS)))
    assert not [one.name for one in outcomes if one.name.startswith("valid")], "the samples are read twice"
    check(bars, f"{len(outcomes)} files of {len(COUNTS)} kinds", outcomes)
    assert {"read", "refused"} == {one.what for one in outcomes}


@pytest.mark.study
@pytest.mark.timeout(7200)
def test_many_damaged_files_of_every_kind(bars: Any) -> None:
    chunks = [(kind, first) for kind, count in COUNTS.items() for first in range(0, count, CHUNK)]

    def read(chunk: tuple[str, int]) -> tuple[str, list[Outcome], float]:
        (kind, first), start = chunk, time.monotonic()
        outcomes = list(run_trials(TRIAL, kind, SEED, first, min(CHUNK, COUNTS[kind] - first)))
        return kind, outcomes, time.monotonic() - start

    by_kind: dict[str, list[Outcome]] = {kind: [] for kind in COUNTS}
    seconds = Counter[str]()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for kind, outcomes, took in pool.map(read, chunks):
            by_kind[kind] += outcomes
            seconds[kind] += took
    print(f"\nseed {SEED}\n| kind | files | own errors | accepted | peak MiB | seconds |\n|---|--:|--:|--:|--:|--:|")
    for kind, outcomes in by_kind.items():
        what = Counter(one.what for one in outcomes)
        peak = max(one.growth_mib for one in outcomes)
        print(f"| {kind} | {len(outcomes):,} | {what['refused']:,} | {what['read']:,} | {peak:.0f} | {seconds[kind]:.0f} |")
    missed = []
    for kind, outcomes in by_kind.items():
        try:
            check(bars, f"{len(outcomes):,} {kind}", outcomes)
        except AssertionError as error:
            missed.append(str(error))
    assert not missed, "\n".join(missed)


def test_seed_and_number_reproduce_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinds import load_kind, sample

    monkeypatch.chdir(tmp_path)
    for name in ("CSV manifests", "calibrations"):
        kind, again = load_kind(name), load_kind(name)
        files = [sample(kind, "5", number) for number in range(200)]
        assert files == [sample(again, "5", number) for number in range(200)]
        assert files[100:] != [sample(kind, "6", number) for number in range(100, 200)]
        assert len({data for _, data in files}) > 150


def test_a_column_of_damaged_metadata_does_not_end_the_process() -> None:
    """Arrow aborts when it is asked for such a column's metadata; see ``_check_cells`` in ``manifest/tables.py``."""
    (outcome,) = run_trials(TRIAL, "Parquet manifests", "7", 1244, 1)
    assert outcome.what == "refused", outcome
