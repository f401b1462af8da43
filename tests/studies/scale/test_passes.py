"""``make bench-scale``: every pass over an index of ``ITEMS`` rows, in seconds and MiB."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import index_passes
import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(2 * 3600)]

PER_MILLION = {
    "scan": (30, 160),
    "done ids, small parts": (15, 48),
    "compaction": (60, 0),
    "done ids": (5, 48),
    "tally": (6, 0),
    "--changed": (240, 180),
    "reconcile, half redone": (60, 60),
}
"""Seconds of the processor, and MiB: the most per million rows. Memory may have ``FIXED_MIB`` more."""

FIXED_MIB = 150


@pytest.fixture(scope="module")
def passes(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str], results: Callable) -> dict[str, Any]:
    """What each pass took; the numbers are in ``out/scale/passes.json``."""
    folder, took = tmp_path_factory.mktemp("passes"), {}
    env = clean_env | {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # as the command sets it
    for step in index_passes.STEPS:
        command = [sys.executable, index_passes.__file__, step, str(folder), str(index_passes.ITEMS)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-1500:]
        took[step] = json.loads(done.stdout)
    out: Path = results("scale")
    (out / "passes.json").write_text(json.dumps({"rows": index_passes.ITEMS, **took}, indent=2) + "\n", encoding="utf-8")
    return took


@pytest.mark.parametrize("step", PER_MILLION)
def test_a_pass_is_cheap(passes: Any, bars: Any, step: str) -> None:
    took, millions = passes[step], index_passes.ITEMS / 1e6
    seconds, mib = PER_MILLION[step]
    assert took["right"]
    bars.at_most(f"{step}, {index_passes.ITEMS:,} rows: CPU s ({took['seconds']:.1f} s)", took["cpu_s"], 2 + seconds * millions)
    bars.at_most(f"{step}, {index_passes.ITEMS:,} rows: MiB", took["mib"], FIXED_MIB + mib * millions)
