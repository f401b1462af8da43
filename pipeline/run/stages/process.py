"""Configure a worker process before it works on pixels: threads, memory, end."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
from typing import Any

import cv2
import pyarrow as pa

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt`` (mallopt(3))."""

KEEP_MIB, LARGE_MIB = 256, 32
"""Freed memory that each heap of the process keeps, and the size above which an array is returned to the kernel at once."""

PR_SET_PDEATHSIG = 1
"""Parameter of Linux's ``prctl`` (prctl(2))."""


@functools.cache
def tune_process(threads: int = 1) -> None:
    """Set OpenCV's threads, keep freed memory, and end this process with its raylet. Runs once per process.

    OpenCV takes all cores in every process; one is enough. Every image needs arrays of the same size again, and glibc returns
    them to the kernel: zeroing their pages took a third of the decoding time. A worker whose raylet is dead normally ends by
    itself, but sometimes hangs with a model in memory, so the kernel kills it. With another C library or kernel, neither is
    done.

    Args:
        threads: OpenCV threads.
    """
    cv2.setNumThreads(threads)
    library = _c_library()
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE_MIB * 2**20)
        library.mallopt(M_TRIM_THRESHOLD, KEEP_MIB * 2**20)
    if os.environ.get("RAY_RAYLET_PID") == str(os.getppid()):
        end_with_parent()


def keep_pandas_out() -> None:
    """Keep pyarrow from importing pandas in this process, which takes 0.2 s: it does so when it converts its first list.

    Call it before that, and only in a process of our own: pyarrow then never converts to or from pandas there.
    """
    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, (refuse := _RefusePandas()))
        pa.array([])  # pyarrow asks for pandas once
        sys.meta_path.remove(refuse)


class _RefusePandas:
    def find_spec(self, name: str, *_: object) -> None:
        """Fail the import of pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def end_with_parent() -> None:
    """Let Linux kill this process when its parent ends. Does nothing on other systems."""
    library = _c_library()
    if hasattr(library, "prctl"):
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _c_library() -> Any:
    """Return what this process has linked; None on Windows."""
    try:
        return ctypes.CDLL(None)
    except TypeError:
        return None
