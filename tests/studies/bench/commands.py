"""What a command costs, from its start to its exit."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

POLL_S = 0.02


class Cost(NamedTuple):
    """Seconds and memory of one command."""

    wall_s: float
    cpu_s: float
    """CPU seconds, of processes that it started and waited for too."""
    peak_mib: float
    """Peak resident memory of the command's own process."""


def cost_of(command: list[str], folder: Path, variables: Mapping[str, str] = os.environ, exit_code: int = 0) -> Cost:
    """Run a command in a folder, and return what it cost. Python may write its bytecode, as on a user's machine."""
    environment = {key: value for key, value in variables.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start, peak_mib = time.perf_counter(), 0.0
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while not (ended := os.wait4(run.pid, os.WNOHANG))[0]:
            peak_mib = max(peak_mib, resident_peak_mib(run.pid))
            time.sleep(POLL_S)
        _, status, used = ended
        run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == exit_code, f"{' '.join(command)} ended with exit code {run.returncode}"
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, peak_mib)


def resident_peak_mib(pid: int) -> float:
    """Return a process's VmHWM, 0 if it has ended. The kernel's ``ru_maxrss`` would include this process, which started it."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace"), re.M)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
