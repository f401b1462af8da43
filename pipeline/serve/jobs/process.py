"""Run one job: the process that the service starts with ``python -m pipeline.serve.jobs.process``.

It gets its job as JSON on stdin, so that no credential stands in the list of processes. It works at lower priority than the
service, ends at SIGTERM or when its record asks it to stop, and records how it ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.config.job import Compute, load_job
from pipeline.errors import PipelineError
from pipeline.log import facts_in_every_line, log, set_up_logging
from pipeline.run.callback import RunProgress
from pipeline.run.driver import run_job
from pipeline.run.gpus import is_small
from pipeline.run.signals import SignalHandler
from pipeline.run.stages.process import keep_pandas_out
from pipeline.run.worker_process import start_ahead
from pipeline.serve.jobs.records import JobRecord, Records
from pipeline.storage.files import Files

NICENESS = 10
"""Added to the service's: requests come first."""

POLL_S = 2.0
"""Seconds between two looks whether the job was asked to stop."""

FAILED = "the run failed for a reason that is not its own; the service's log says more"


def main() -> int:
    """Run the job on stdin, and return its exit code."""
    given: dict[str, Any] = json.load(sys.stdin)
    set_up_logging()
    record, root = JobRecord.model_validate(given["record"]), given["root"]
    job = load_job(**given["job"])
    records = Records((root,), Files(job.storage))
    signals = SignalHandler(lambda error: records.end(root, record, error.exit_code, str(error)))
    signals.install()
    _end_first()
    threading.Thread(target=_watch, args=(records, root, record.id), name="stop", daemon=True).start()
    code, error = 0, None  # type: int, str | None
    with facts_in_every_line(job=record.id):
        try:
            start_ahead(job)
            keep_pandas_out()
            run_job(job, signals=signals, run_id=record.id, callback=_Yielding(job.compute))
        except PipelineError as failure:
            code, error = failure.exit_code, str(failure)
            log.error(f"job failed: {failure}")
        except Exception:  # noqa: BLE001  it is recorded, and logged with its traceback
            code, error = 1, FAILED
            log.exception("job failed")
        finally:
            signals.wait_if_leaving()
    records.end(root, record, code, error)
    return code


class _Yielding:
    """Takes the run's progress, and lowers the job's priority. Because of it, the run draws no bar on the service's terminal.

    A job on Ray does that when its first items are done. Ray gives up if its processes do not start within 30 s, and at low
    priority they do not, beside a service that keeps all cores busy. Its workers have a low priority anyway.

    Args:
        compute: Says which runs work without Ray.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute, self._has_yielded = compute, False

    def __call__(self, progress: RunProgress) -> None:
        """Lower the priority, once."""
        left = progress.items - progress.done_before
        without_ray = is_small(self._compute, left)
        if self._has_yielded or not (without_ray or progress.done + progress.derived > progress.done_before):
            return
        self._has_yielded = True
        if hasattr(os, "setpriority"):  # Windows has none
            whose = os.PRIO_PGRP if without_ray else os.PRIO_PROCESS  # with the worker that was started ahead
            with suppress(OSError):
                os.setpriority(whose, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


def _watch(records: Records, root: str, job_id: str) -> None:
    while not records.is_asked_to_stop(root, job_id):
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _end_first() -> None:
    """If memory runs out, let the kernel end this process and those that it starts, and not the service."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
