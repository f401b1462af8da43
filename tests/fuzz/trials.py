"""Run trials of damaged files in processes of their own, which may crash or hang: see ``run_trials``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # many small files, which are flushed to disk elsewhere


class Outcome(NamedTuple):
    number: int
    name: str
    what: str
    """``read``, ``refused``, or a failure."""
    growth_mib: float


def run_trials(script: Path, kind: str, source: str, first: int, count: int) -> Iterator[Outcome]:
    """Yield each file's outcome. When a file ends its process, another process continues with the next file.

    ``script`` is called with the other arguments in an empty folder, and prints one line of JSON per file.
    """
    last = first + count
    environment = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONPATH": str(script.parents[2])}
    while first < last:
        command = [sys.executable, str(script), kind, source, str(first), str(last - first)]
        with (
            tempfile.TemporaryFile("w+", errors="replace") as log,
            tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY) as folder,
        ):
            with subprocess.Popen(
                command, env={**os.environ, **environment}, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
            ) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    yield Outcome(first, *json.loads(line))
                    first += 1
            log.seek(0)
            assert child.returncode < 0 or (child.returncode, first) == (0, last), f"the trial failed: {log.read()[-2000:]}"
        if child.returncode:
            what = "hang" if child.returncode in {-signal.SIGPROF, -signal.SIGALRM} else f"crash by signal {-child.returncode}"
            yield Outcome(first, f"{kind} {source}", what, 0)
            first += 1
