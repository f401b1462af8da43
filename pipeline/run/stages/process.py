"""What a worker process settles before it works on pixels."""

from __future__ import annotations

import ctypes
import functools
import os
import signal

import cv2

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's ``mallopt`` (mallopt(3))."""

KEPT_MIB, LARGE_MIB = 256, 32

PR_SET_PDEATHSIG = 1
"""Name of Linux's ``prctl`` (prctl(2))."""


@functools.cache
def tune_process(threads: int = 1) -> None:
    """Once a process: its threads, its memory, its end.

    OpenCV takes all cores in every process; one will do.

    Each image needs the same arrays of megabytes again. glibc gives such to the kernel and gets them back empty: the pages'
    zeroing took a third of a decoding's time. So it keeps up to ``KEPT_MIB``, but for arrays above ``LARGE_MIB`` (its limit).

    A worker whose raylet has gone ends by itself, but now and then locks itself up on the way, with a model in its memory;
    the kernel sees to it. Where the C library or the kernel is another one, neither is done.
    """
    cv2.setNumThreads(threads)
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE_MIB * 2**20)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_MIB * 2**20)
    if hasattr(library, "prctl") and os.environ.get("RAY_RAYLET_PID") == str(os.getppid()):
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
