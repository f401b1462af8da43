"""Take jobs from clients, and start and stop their processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from pipeline.errors import ConfigError, Stopped
from pipeline.log import log
from pipeline.output.lease import is_running_here, new_run_id, process_of, run_id_after
from pipeline.output.output import Output
from pipeline.serve.jobs.offer import Allowed, Offer
from pipeline.serve.jobs.records import JobRecord, Records, now
from pipeline.serve.jobs.state import OVER, state_of
from pipeline.serve.refusals import RequestRefused
from pipeline.storage.files import Files

STOP_S = 6.0
"""Seconds that jobs get to end with the service. A run needs at most 2.5 for a consistent output."""

COMMAND = (sys.executable, "-P", "-m", "pipeline.serve.jobs.process")
"""-P: nothing is imported from the folder that the service was started in."""


class Jobs:
    """The jobs of a service. Used by one event loop only.

    Args:
        offer: What jobs may use.
        files: Access to storage.

    Raises:
        ConfigError: A root is not a path or URI, or there is none to read or to write below.
    """

    def __init__(self, offer: Offer, files: Files) -> None:
        self._offer, self._files = offer, files
        if not offer.writable.allowed or not offer.readable.allowed:
            raise ConfigError("jobs need a place to write below (--output-root) and one to read below (--allow-root)")
        self._records = Records(offer.writable.allowed, files)
        self._starting = asyncio.Lock()
        self._running: dict[str, JobRecord] = {}
        self._own: dict[str, asyncio.subprocess.Process] = {}
        self._reaping: set[asyncio.Task[None]] = set()
        self._is_known = False
        """True once the jobs that an earlier service may have left running were looked for."""

    @property
    def running(self) -> int:
        """Number of jobs whose processes run on this machine, as far as this service knows."""
        return len(self._running)

    async def submit(self, body: Any) -> dict[str, Any]:
        """Start a job, and return its state.

        Args:
            body: The request's JSON.

        Raises:
            RequestRefused: 400, 403, 409 or 503: it may not run, or not now.
            StorageError: A root cannot be used.
        """
        allowed = await asyncio.to_thread(self._offer.check, body)
        output = allowed.output.uri
        async with self._starting:
            await self._refresh()
            if any(record.output_uri == output for record in self._running.values()):
                raise RequestRefused(409, "busy", "a job of this output is running; wait for it, or stop it with DELETE")
            if len(self._running) >= self._offer.most:
                message = f"{len(self._running)} jobs are running, of {self._offer.most} at a time (--max-jobs); try later"
                raise RequestRefused(503, "busy", message, {"Retry-After": "60"})
            job_id = await asyncio.to_thread(run_id_after, new_run_id(), Output.at(output, self._files))
            record = await self._start(job_id, allowed)
        return await self.state(record.id)

    async def _start(self, job_id: str, allowed: Allowed) -> JobRecord:
        """Start the process, record it, and then tell it what to do."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the service's terminal is for the service, which ends its jobs in order
        )
        record = JobRecord(
            id=job_id,
            manifest=allowed.request.manifest,
            output=allowed.request.output,
            manifest_uri=allowed.manifest.uri,
            output_uri=allowed.output.uri,
            preset=allowed.preset,
            submitted_at=now(),
            process=process_of(process.pid),
        )
        root = allowed.output.root
        try:
            await asyncio.to_thread(self._records.write, root, record)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        self._running[record.id], self._own[record.id] = record, process
        task = asyncio.ensure_future(self._reap(record, root, process))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)
        assert process.stdin is not None
        told = {"record": record.model_dump(), "root": root, "job": allowed.arguments}
        with suppress(OSError):  # a process that has died already is reaped
            process.stdin.write(json.dumps(told).encode())
            await process.stdin.drain()
            process.stdin.close()
        log.info("job started", extra={"facts": {"job": record.id, "pid": process.pid}})
        return record

    async def _reap(self, record: JobRecord, root: str, process: asyncio.subprocess.Process) -> None:
        """Wait for a process, and record its end if it could not do that itself."""
        status = await process.wait()
        try:
            code = Stopped.exit_code if status == -signal.SIGTERM else status if 0 <= status <= 5 else 1
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            error = None if status == 0 else f"its process {how}; run the same command again to continue"
            with suppress(RuntimeError):  # the service ends, and its threads with it
                await asyncio.to_thread(self._records.end, root, record, code, error)
        finally:  # whatever fails, the job no longer counts
            self._running.pop(record.id, None)
            self._own.pop(record.id, None)
        log.info("job ended", extra={"facts": {"job": record.id, "status": status}})

    async def _refresh(self) -> None:
        """Find jobs that a service before this one has left running, and forget those that have ended."""
        if not self._is_known:
            for record in await asyncio.to_thread(self._records.latest):
                if record.exit_code is None:
                    self._running.setdefault(record.id, record)
            self._is_known = True
        for job_id, record in list(self._running.items()):
            found = await asyncio.to_thread(self._records.find, job_id)
            has_ended = found is None or found[1].exit_code is not None
            if has_ended or (job_id not in self._own and not is_running_here(record.process)):
                self._running.pop(job_id, None)

    async def state(self, job_id: str) -> dict[str, Any]:
        """Return the state of a job.

        Raises:
            RequestRefused: 404.
            StorageError: It cannot be read.
        """
        _, record = await self._find(job_id)
        return await asyncio.to_thread(state_of, record, self._files)

    async def stop(self, job_id: str) -> tuple[bool, dict[str, Any]]:
        """Ask a job to stop. Return whether it was running, and its state.

        Raises:
            RequestRefused: 404.
            WriteError: The wish cannot be written.
            StorageError: The job cannot be read.
        """
        root, record = await self._find(job_id)
        state = await asyncio.to_thread(state_of, record, self._files)
        if state["verdict"] in (OVER, "dead"):
            return False, state
        await asyncio.to_thread(self._records.ask_to_stop, root, job_id)
        return True, state | {"said": "it was asked to stop"}

    async def listed(self) -> list[dict[str, Any]]:
        """Return the latest jobs without their progress, the newest first.

        Raises:
            StorageError: A root cannot be listed.
        """
        records = await asyncio.to_thread(self._records.latest)
        names = ("id", "manifest", "output", "preset", "submitted_at", "ended_at", "exit_code")
        return [{name: getattr(record, name) for name in names} for record in records]

    async def _find(self, job_id: str) -> tuple[str, JobRecord]:
        found = await asyncio.to_thread(self._records.find, job_id)
        if found is None:
            raise RequestRefused(404, "not_found", "there is no such job; GET /v1/jobs lists the latest")
        return found

    def interrupt(self) -> None:
        """Send SIGTERM to the processes of this service: it is ending. They leave outputs that can be continued."""
        for process in self._own.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    async def end(self) -> None:
        """Wait until the processes have ended, and kill those that do not."""
        self.interrupt()
        if self._reaping:
            await asyncio.wait(self._reaping, timeout=STOP_S)
        for process in list(self._own.values()):
            with suppress(ProcessLookupError):
                _kill(process)
        await asyncio.gather(*self._reaping)


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a job's process, and where there are process groups, those that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
