"""Any bytes decode to an upright RGB image or raise ``DecodeError``, without a crash, a hang or too much memory.

A failure is reported by seed and number: ``next(damaged(SEED, 1, NUMBER))`` in ``damage.py`` generates the file again.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from damage import damaged
from trials import Outcome, run_trials
from valid_images import valid_images

TRIAL = Path(__file__).with_name("decode_trial.py")
SEED = os.environ.get("SEED", "1")
CHUNK = 2_500
"""Files per process: many, so that leaked memory adds up."""
MAX_GROWTH_MIB = 96
"""Several times the memory of an image of one megapixel, the limit for damaged files."""


def fuzz(count: int) -> list[Outcome]:
    """Decode damaged files 0 to ``count`` of the seed, on all cores that this process may use."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        chunks = pool.map(
            lambda first: list(run_trials(TRIAL, "damage", SEED, first, min(CHUNK, count - first))), range(0, count, CHUNK)
        )
        return [outcome for chunk in chunks for outcome in chunk]


def shares(outcomes: list[Outcome]) -> str:
    """Format the share of files that are read, one line per kind."""
    counts = Counter((outcome.name.split(":", 1)[0], outcome.what == "read") for outcome in outcomes)
    kinds = sorted({kind for kind, _ in counts})
    totals = {kind: counts[kind, True] + counts[kind, False] for kind in kinds}
    return "\n".join(f"{kind:20} {totals[kind]:7,} files, {counts[kind, True] / totals[kind]:6.1%} read" for kind in kinds)


def check_bars(bars: Any, what: str, outcomes: list[Outcome], growth_mib: float) -> None:
    """Check the bars that apply to all files."""
    faults = {"crashes": "crash", "hangs": "hang", "out of memory": "memory", "anything else but an image": ""}
    failures = [outcome for outcome in outcomes if outcome.what not in {"read", "refused"}]
    for name, start in faults.items():
        found = [outcome for outcome in failures if outcome.what.startswith(start)]
        failures = [outcome for outcome in failures if outcome not in found]
        first = example([f"file {fault.number}, {fault.name}, {fault.what[:200]}" for fault in found])
        bars.at_most(f"{what}: {name}{first}", len(found), 0)
    largest = max(outcomes, key=lambda outcome: outcome.growth_mib)
    bars.at_most(f"{what}: memory growth in MiB, by file {largest.number}, {largest.name}", largest.growth_mib, growth_mib)


def example(found: list[str]) -> str:
    """Format the first failure."""
    return f" ({found[0]})" if found else ""


def check(bars: Any, count: int) -> None:
    outcomes = fuzz(count)
    assert [outcome.number for outcome in outcomes] == list(range(count))
    print(f"\n{shares(outcomes)}")
    what = f"{count:,} damaged files of seed {SEED}"
    refused = [outcome.name for outcome in outcomes if outcome.name.startswith("valid") and outcome.what == "refused"]
    bars.at_most(f"{what}: valid images refused{example(refused)}", len(refused), 0)
    check_bars(bars, what, outcomes, MAX_GROWTH_MIB)


def test_damaged_files(bars: Any) -> None:
    check(bars, CHUNK)


@pytest.mark.study
@pytest.mark.timeout(3600)
def test_many_damaged_files(bars: Any) -> None:
    check(bars, 52_000)


REFUSED_ON_PURPOSE = {
    "xcsn0g01.png": "its checksum is wrong, which Pillow ignores",
    "crash-74d2a78403a5a59db1fb0a2b8735ac068a75f6e3.tif": "Pillow 12 refuses it",
}


READ_ON_PURPOSE = {
    "png_decompression_dos.png": "its texts are too large for Pillow, its pixels are sound",
    "unknown_compression_method.png": "it is the method of a text, which is not read",
}


def test_awkward_files(bars: Any, shared: Path) -> None:
    """Files are read if Pillow reads them, except unsupported formats and samples. Others are refused, except HEIC."""
    folder = shared / "data" / "torture"
    if not folder.is_dir():
        pytest.skip("no torture set")
    rows = pq.read_table(folder / "images.parquet").to_pylist()
    outcomes = list(run_trials(TRIAL, "torture", str(folder), 0, len(rows)))
    check_bars(bars, f"{len(rows)} awkward files", outcomes, 256)
    refused, read = [], []
    for row, outcome in zip(rows, outcomes, strict=True):
        name = row["file"].rsplit("/", 1)[-1]
        foreign = row["format"] == "JPEG2000" or row["mode"] in {"I", "F"}
        good = row["pillow13"] == "ok" and not foreign
        if good and outcome.what == "refused" and name not in REFUSED_ON_PURPOSE:
            refused.append(row["file"])
        if not good and outcome.what == "read" and row["data"][4:8] != b"ftyp" and name not in READ_ON_PURPOSE:
            read.append(row["file"])
    bars.at_most(f"awkward files: good ones refused{example(refused)}", len(refused), 0)
    bars.at_most(f"awkward files: broken ones read{example(read)}", len(read), 0)


def test_every_fault_of_a_decoder_is_detected() -> None:
    planted = "read,crash,refuse,spin,raise,sleep,overeat,grey,eat,read"
    found = [(outcome.number, outcome.what.split(":")[0]) for outcome in run_trials(TRIAL, "planted", planted, 0, 10)]
    expected = ["read", "crash by signal 6", "refused", "hang", "ValueError", "hang", "memory", "wrong", "wrong", "read"]
    assert found == list(enumerate(expected))
    growth = [outcome.growth_mib for outcome in run_trials(TRIAL, "planted", "read,eat,read", 0, 3)]
    assert growth[0] < 50 and 250 < growth[1] <= growth[2]


def test_seed_and_number_reproduce_a_file() -> None:
    files = list(damaged(5, 2_000))
    assert files[1_500:1_600] == list(damaged(5, 100, 1_500))
    assert files[1_500:] != list(damaged(6, 500, 1_500))
    assert len({data for _, data in files}) > 1_800
    assert {name.split(":")[0] for name, _ in files} > {"valid", "cut at 5 %", "cut at 95 %", "cut", "bits flipped", "spliced"}
    assert {name for name, _ in files} >= {f"valid: {name}" for name in valid_images()}
