"""What a command costs, from its start to its exit."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds and memory of one command."""

    wall_s: float
    cpu_s: float
    """CPU seconds, of processes that it started and waited for too."""
    peak_mib: float
    """Peak resident memory of its largest process."""


def cost_of(command: list[str], folder: Path, variables: Mapping[str, str] = os.environ, exit_code: int = 0) -> Cost:
    """Run a command in a folder, and return what it cost. Python may write its bytecode, as on a user's machine."""
    environment = {key: value for key, value in variables.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == exit_code, f"{' '.join(command)} ended with exit code {run.returncode}"
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
