"""``make bench``: the memory of the processes that decode, write and commit in a run on Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "soak"))  # tests are no package
from watch import Watch

pytestmark = [pytest.mark.study, pytest.mark.timeout(900)]


def test_workers_are_small(
    photos: Callable[[tuple[int, int], int], Path], tmp_path: Path, keep: Callable[[str, Any], None], bars: Any
) -> None:
    """Watch a run of 2-megapixel JPEGs: the memory includes the pixels of the block at work."""
    folder = photos((1632, 1224), 160)
    command = [sys.executable, "-m", "jobs.main", "run", "-m", str(folder), "-o", str(tmp_path / "out"), "-p", "u2netp"]
    variables = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "--set", "compute.local_items=0"], stdout=log, stderr=log, env=variables, cwd=tmp_path
        ) as run,
        Watch([run.pid], lambda: 0, every_s=0.25) as watch,
    ):
        run.wait()
    assert run.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    peaks = pd.DataFrame(watch.samples).groupby("role")["heap_mib"].max()
    keep("peak memory by role, MiB", {str(role): float(mib) for role, mib in peaks.items()})
    others = ", ".join(f"{role} {peaks[role]:.0f}" for role in ("driver", "model"))
    bars.at_most(f"largest decode, write or commit worker: peak of own memory, MiB ({others})", peaks["tasks"], 180)
