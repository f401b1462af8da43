"""Retries with exponential backoff and jitter, until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.storage.errors import describe_error, is_transient, library_errors

TIMEOUT_S = 120.0
"""Default deadline of one operation with all its retries, in seconds."""

PAUSE_S = 0.4
"""Longest pause before the first retry, in seconds; doubled for each further retry."""

MAX_PAUSE_S = 10.0
"""Longest pause between two attempts, in seconds."""

T = TypeVar("T")


def with_retries(
    uri: str,
    raise_as: type[PipelineError],
    work: Callable[[float], T],
    timeout_s: float,
    tries: int | None = None,
    pause_s: float = PAUSE_S,
) -> T:
    """Call ``work`` with the seconds that are left, retry transient errors, and raise the last error as ``raise_as``."""
    deadline = time.monotonic() + timeout_s
    cause: BaseException | None = None
    attempt = 0
    while True:
        try:
            return work(max(deadline - time.monotonic(), 0.01))
        except library_errors() as error:
            attempt += 1
            pause = random.uniform(0.5, 1) * min(pause_s * 2 ** (attempt - 1), MAX_PAUSE_S)
            # Report the underlying error, not the timeout that it caused.
            cause = cause if cause is not None and isinstance(error, TimeoutError) else error
            if attempt == tries or not is_transient(error) or time.monotonic() + pause >= deadline:
                raise raise_as(describe_error(cause, uri)) from cause
        time.sleep(pause)
