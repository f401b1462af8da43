"""Read damaged files in a separate process that may crash.

Run as ``python trial.py KIND,KIND… SEED FIRST COUNT`` in an empty folder. The files of several kinds take turns. Each file
gives one line of JSON: name, outcome, and the peak growth of the process's memory in MiB. The kernel enforces the limits, so
native code cannot avoid them: address space, and time per file (a signal ends the process).
"""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

from kinds import Kind, Wrong, load_kind, sample

from pipeline.errors import PipelineError

MAX_MEMORY_MIB = 1024
MAX_CPU_S, MAX_WAIT_S = 20, 120


def outcome(kind: Kind, name: str, data: bytes) -> str:
    """Return ``read``, ``refused``, or a failure: ``memory``, ``wrong`` or an exception's name and place."""
    try:
        kind.read(name, data)
    except PipelineError as error:
        if is_memory(error):
            return f"memory: {error}"[:300]
        text = str(error)
        fine = 0 < len(text) < 1500 and not re.search(r"0x[0-9a-f]{8}|\n|[\ud800-\udfff]", text)
        return "refused" if fine else f"wrong: the message {text[:400]!r}"
    except Wrong as error:
        return f"wrong: {error}"[:400]
    except BaseException as error:  # noqa: BLE001  the test looks for these
        frames = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
        return f"{type(error).__name__}: {str(error)[:200]!r} at {' '.join(frames[-6:])}"
    return "read"


def is_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) and type(error).__module__ != "av.error":  # FFmpeg calls absurd sizes so, too
            return True
        error = error.__cause__ or error.__context__
    return False


def memory_mib(field: str) -> float:
    """Return this process's VmSize, VmRSS or VmHWM."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, field
    return int(found[1]) / 1024


def main() -> None:
    names, seed, first, count = sys.argv[1].split(","), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the commands print
    warnings.simplefilter("ignore")
    kinds = []
    for name in names:
        folder = Path(name).absolute()
        folder.mkdir()
        os.chdir(folder)
        kinds.append((folder, load_kind(name)))
        for valid, data in kinds[-1][1].samples.items():  # what libraries load on first use is no growth
            kinds[-1][1].read(f"valid: {valid}", data)
        os.chdir("..")
    gc.collect()
    memory = int(memory_mib("VmSize") + MAX_MEMORY_MIB) << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    before = memory_mib("VmRSS")
    for number in range(first, first + count):
        folder, kind = kinds[number % len(kinds)]
        os.chdir(folder)
        name, data = sample(kind, seed, number // len(kinds))
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
        signal.setitimer(signal.ITIMER_REAL, MAX_WAIT_S)
        what = outcome(kind, name, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()  # encoders of videos are in cycles, and their threads' stacks would count as memory
        print(json.dumps([name, what, round(memory_mib("VmHWM") - before, 1)]), file=answers, flush=True)


main()
