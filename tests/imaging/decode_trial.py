"""Decode files in a separate process that may crash.

Run as ``python decode_trial.py KIND SOURCE FIRST COUNT``: files FIRST to FIRST + COUNT of a seed (``damage SEED``), of the
awkward files in a folder (``torture FOLDER``), or of any folder (``folder FOLDER``). ``planted FAULT,FAULT…`` injects faults
instead, to test their detection.

Each file gives one line of JSON: name, outcome, and the peak growth of the process's memory in MiB. The kernel enforces the
limits, so native code cannot avoid them: address space, and time per file (a signal ends the process).
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.config.job import Limits
from pipeline.errors import DecodeError
from pipeline.imaging.decode import decode
from pipeline.types import Pixels

MAX_MEMORY_MIB = 1024
MAX_CPU_S = {"damage": 20, "torture": 60, "folder": 60, "planted": 4}
MAX_WAIT_S = {"damage": 300, "torture": 300, "folder": 300, "planted": 10}
LIMITS = {"torture": Limits(), "folder": Limits()}
SMALL = Limits(max_pixels=1_000_000, max_bytes=2_000_000)


def outcome(data: bytes, limits: Limits, decode: Callable[[bytes, Limits], Pixels]) -> str:
    """Return ``read``, ``refused``, or a failure: ``memory``, ``wrong`` or an exception's name."""
    try:
        pixels = decode(data, limits)
    except DecodeError as error:
        if isinstance(error.__cause__, MemoryError):
            return f"memory: {error}"
        fine = len(str(error)) < 400 and not re.search(r"0x[0-9a-f]{6}|\n", str(error))
        return "refused" if fine else f"wrong: the message {error!r}"
    except BaseException as error:  # noqa: BLE001  the test looks for these
        return f"{type(error).__name__}: {error}"
    rgb = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    fine = rgb and pixels.flags.c_contiguous and pixels.flags.writeable and 0 < pixels.size <= 3 * limits.max_pixels
    return "read" if fine else f"wrong: {pixels.dtype} {pixels.shape}"


def memory_mib(field: str) -> float:
    """Return this process's VmSize, VmRSS or VmHWM."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, field
    return int(found[1]) / 1024


def files(kind: str, source: str, first: int, count: int) -> Iterator[tuple[str, bytes]]:
    if kind == "damage":
        from damage import damaged

        return damaged(int(source), count, first)
    if kind == "folder":
        named = [(path.name, path.read_bytes()) for path in sorted(Path(source).iterdir())]
    elif kind == "planted":
        named = [(name, name.encode()) for name in source.split(",")]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(Path(source) / "images.parquet", columns=["file", "data"]).to_pylist()
        named = [(row["file"], row["data"]) for row in rows]
    return iter(named[first : first + count])


def planted(data: bytes, limits: Limits) -> Pixels:
    """A decoder with all kinds of faults."""
    match data:
        case b"crash":
            os.abort()
        case b"spin":
            while True:
                pass
        case b"sleep":
            signal.pause()
        case b"eat":
            return np.ones((1, 100 * 2**20, 3), np.uint8)
        case b"overeat":
            raise DecodeError("no room") from MemoryError()
        case b"raise":
            raise ValueError("not what was promised")
        case b"grey":
            return np.zeros((2, 2), np.uint8)
        case b"refuse":
            raise DecodeError("no image")
    return np.zeros((2, 2, 3), np.uint8)


def warm_up(limits: Limits) -> None:
    """Load every decoder: memory that they keep is no growth."""
    from valid_images import valid_images

    for data in valid_images().values():
        decode(data, limits)


def main() -> None:
    kind, source, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    limits = LIMITS.get(kind, SMALL)
    waiting = files(kind, source, first, count)
    warm_up(limits)
    memory = int(memory_mib("VmSize") + MAX_MEMORY_MIB) << 20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    before = memory_mib("VmRSS")
    for name, data in waiting:
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S[kind])
        signal.setitimer(signal.ITIMER_REAL, MAX_WAIT_S[kind])
        what = outcome(data, limits, planted if kind == "planted" else decode)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps([name, what, round(memory_mib("VmHWM") - before, 1)]), flush=True)


main()
