"""Trying again: faults that may pass, with growing random pauses, until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import PipelineError
from pipeline.storage.errors import LIBRARY_ERRORS, describe_error, is_transient

TIMEOUT_S = 120.0
"""How long a fault that may pass is tried again, unless told otherwise."""

LONGEST_PAUSE_S = 10.0

T = TypeVar("T")


def with_retries(
    uri: str, raise_as: type[PipelineError], work: Callable[[float], T], timeout_s: float, tries: int | None = None
) -> T:
    """Do the work, again while its fault may pass, and turn what is left at the deadline into ``raise_as``."""
    deadline = time.monotonic() + timeout_s
    told: BaseException | None = None
    attempt = 0
    while True:
        try:
            return work(max(deadline - time.monotonic(), 0.01))
        except LIBRARY_ERRORS as error:
            attempt += 1
            pause = random.uniform(0.5, 1) * min(0.2 * 2**attempt, LONGEST_PAUSE_S)
            last = attempt == tries or not is_transient(error) or time.monotonic() + pause >= deadline
            # Running out of time says less than the fault that used it up.
            told = told if told is not None and isinstance(error, TimeoutError) else error
            if last:
                raise raise_as(describe_error(told, uri)) from told
        time.sleep(pause)
