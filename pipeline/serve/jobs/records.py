"""Keep what was asked of each job, and how its process ended: ``_matteline-jobs/<id>.json`` below a root for writing.

Everything between, such as progress, is in the job's output. ``<id>.stop`` asks the process to end. So any service with the
same roots can show and stop a job, also after a restart.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.config.sections import Stored, Time, parse
from pipeline.errors import FetchError, StorageError, WriteError
from pipeline.log import log
from pipeline.serve.jobs.roots import RECORDS
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name

LISTED = 100
"""Jobs that a listing shows: the latest ones."""

_ID = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{6}")


class JobRecord(Stored):
    """Record of a job: its request and its end. The id is that of the run."""

    id: str
    manifest: str
    """As the client gave it."""
    output: str
    manifest_uri: str
    output_uri: str
    preset: str
    submitted_at: Time
    process: str = ""
    """The job's process, as ``lease.process_of`` returns it."""
    ended_at: Time | None = None
    exit_code: int | None = None
    error: str | None = None


def now() -> str:
    """Return the time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Records:
    """The records of all jobs below some roots."""

    roots: tuple[str, ...]
    files: Files

    def write(self, root: str, record: JobRecord) -> None:
        """Write or replace a record.

        Raises:
            WriteError: It cannot be written.
        """
        self.files.write(self._uri(root, record.id), record.model_dump_json().encode())

    def find(self, job_id: str) -> tuple[str, JobRecord] | None:
        """Return the root and the record of a job; None if there is none.

        Raises:
            StorageError: A root cannot be read.
        """
        if not _ID.fullmatch(job_id):
            return None
        for root in self.roots:
            if (record := self._read(self._uri(root, job_id))) is not None:
                return root, record
            if self.files.exists(self._uri(root, job_id)):
                raise StorageError(f"the record of job {job_id} cannot be read")
        return None

    def latest(self) -> list[JobRecord]:
        """Return the latest jobs, the newest first.

        Raises:
            StorageError: A root cannot be listed.
        """
        found = [info.uri for root in self.roots for info in self.files.list(join(root, RECORDS), suffixes=(".json",))]
        newest = sorted((uri for uri in found if _ID.fullmatch(_id(uri))), key=_id, reverse=True)[:LISTED]
        return [record for record in map(self._read, newest) if record is not None]

    def end(self, root: str, record: JobRecord, exit_code: int, error: str | None) -> None:
        """Record how a job's process ended, unless it has been recorded. A failure of the storage is logged only."""
        known = self._read(self._uri(root, record.id)) or record
        if known.exit_code is not None:
            return
        ended = known.model_copy(update={"ended_at": now(), "exit_code": exit_code, "error": error})
        try:
            self.write(root, ended)
        except WriteError as failure:
            log.error(f"the end of job {record.id} cannot be recorded: {failure}")

    def ask_to_stop(self, root: str, job_id: str) -> None:
        """Ask a job's process to end.

        Raises:
            WriteError: The request to stop cannot be written.
        """
        self.files.write(self._stop(root, job_id), b"This file asks the job to stop.\n")

    def is_asked_to_stop(self, root: str, job_id: str) -> bool:
        """Return whether a job's process was asked to end; False while the storage does not answer."""
        with suppress(StorageError):
            return self.files.exists(self._stop(root, job_id))
        return False

    def _read(self, uri: str) -> JobRecord | None:
        try:
            return parse(JobRecord, self.files.read(uri))
        except FetchError:
            return None
        except ValueError as error:
            log.warning(f"{uri} is left out, because it is damaged: {error}")
            return None

    def _uri(self, root: str, job_id: str) -> str:
        return join(root, RECORDS, f"{job_id}.json")

    def _stop(self, root: str, job_id: str) -> str:
        return join(root, RECORDS, f"{job_id}.stop")


def _id(uri: str) -> str:
    return name(uri).removesuffix(".json")
