"""Configure Ray Data for jobs whose rows must not be lost, and translate its errors."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.data import DataContext
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.errors import PipelineError

RETRY_FOREVER = -1
"""Ray retries lost tasks without limit. The crash ledger stops items that kill workers, and ``compute.no_progress_s`` stops a
run that finishes nothing."""


_ADVICE = re.compile(r"\nFailed to [^\n]* after \d+/\d+ attempts .*", re.DOTALL)
"""Text that Ray Data appends to the message of every exception of a task. Its advice, to repeat the task, would not help."""


@contextmanager
def ray_data(*, no_progress_s: int, block_mib: int | None = None) -> Iterator[None]:
    """Configure Ray Data inside this block, and raise the package's own errors as they were raised in a worker.

    The settings are those of the process. The caller's own are set back at the end.

    Args:
        no_progress_s: Seconds without a finished block after which Ray gives up.
        block_mib: Largest block in MiB; 0 for one row, None for Ray's default.

    Raises:
        PipelineError: What a worker raised.
        RayError: Everything else that went wrong in Ray.
    """
    # Retries have no other parameter yet than the ones that Ray will change in 2.64; the dependency is capped there.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    # Otherwise Ray Data applies no backpressure before the object store is half full. Rows without pixels never fill it, and
    # all of them would wait in the driver, which keeps 20 KB per block.
    os.environ.setdefault("RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD", "0")
    settings = {
        "enable_progress_bars": False,
        "execution_no_progress_timeout_s": no_progress_s,
        "raise_original_map_exception": True,  # otherwise the package's errors lose their type on the way to the driver
    }
    if block_mib is not None:
        settings["target_max_block_size"] = max(1, block_mib * 2**20)
    with _changed(DataContext.get_current(), settings):
        try:
            yield
        except RayError as error:
            raise unwrap_ray_error(error) or error from error


@contextmanager
def _changed(context: DataContext, settings: dict[str, Any]) -> Iterator[None]:
    """Change settings of Ray Data inside this block."""
    before = {name: getattr(context, name) for name in settings}
    for name, value in settings.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def unwrap_ray_error(error: BaseException | None) -> PipelineError | None:
    """Return the package's own error inside one of Ray's, if there is one, with its own message.

    Ray's wrapper is an instance of both.
    """
    while error is not None:
        cause = getattr(error, "cause", None) or error.__cause__
        if isinstance(error, PipelineError) and not isinstance(error, RayError):
            error.args = (_ADVICE.sub("", str(error)),)
            return error
        error = cause
    return None
