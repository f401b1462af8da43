"""The status of a run, from its output alone: progress, lease, run record and index.

Neither Ray nor the run's machine needs to be reachable. Ages follow this machine's clock.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import ConfigError, FetchError
from pipeline.log import log
from pipeline.output.lease import GRACE_S, TTL_S, Holder, in_force, is_gone
from pipeline.output.output import Output, find_outputs
from pipeline.output.progress import RUNNING, ProgressFacts
from pipeline.output.run_record import RunFacts, parse_facts
from pipeline.output.summary import summarise
from pipeline.schema import STATUSES
from pipeline.storage.files import Files
from pipeline.storage.uris import name

MAX_MISSED_WRITES = 3
"""Writes of the progress object that may be missing before a run counts as silent."""


@dataclass(frozen=True)
class RunStatus:
    """The latest run of an output."""

    folder: str
    verdict: str
    """``running``, ``silent`` (it renews its lease and not its progress), ``dead``, or ``over``."""
    said: str
    """The verdict in words, with its reason."""
    facts: dict[str, Any]
    """The progress object; without one the run record; without either the counts of the index."""
    progress_age_s: float | None = None
    lease_age_s: float | None = None
    """Seconds since the lease was renewed; None if this run does not hold it."""

    @property
    def sign_age_s(self) -> float | None:
        """Seconds since the last sign of life."""
        return min((age for age in (self.progress_age_s, self.lease_age_s) if age is not None), default=None)

    def encode(self) -> str:
        """Return the status as JSON."""
        return json.dumps(asdict(self) | {"sign_age_s": self.sign_age_s}, ensure_ascii=False)


def read_status(uri: str, files: Files, *, run_id: str | None = None, now: float | None = None) -> RunStatus:
    """Return the status of the latest run at or below ``uri``, or of the run with this id.

    Raises:
        ConfigError: There is no such run.
        StorageError: The output cannot be read.
    """
    found = [(_latest(output, run_id), output) for output in find_outputs(uri, files)]
    latest, output = max(found, key=lambda one: one[0], default=("", None))
    if output is not None and latest:
        progress = _read(output.layout.progress(latest), ProgressFacts, files)
        # The state stays "running" if the final write failed.
        is_open = progress is None or progress["state"] == RUNNING
        if is_open and (record := _read(output.layout.run(latest), RunFacts, files)):
            return RunStatus(output.folder, "over", str(record["outcome"]), record)
        if progress:
            return _judge(output, progress, time.time() if now is None else now)
    elif output is not None and run_id is None and (counts := summarise(output).counts):
        facts = {"run_id": None} | {status: counts.get(status, 0) for status in STATUSES}
        return RunStatus(output.folder, "over", "no run record; the numbers are the index's", facts)
    raise ConfigError(f"no run {run_id or ''}".rstrip() + f" under {uri}; a run writes its progress there when it starts")


def _judge(output: Output, progress: dict[str, Any], now: float) -> RunStatus:
    """Decide whether the run of a progress object is alive."""
    age = now - datetime.fromisoformat(progress["updated_at"]).timestamp()
    if progress["state"] != RUNNING:
        return RunStatus(output.folder, "over", progress["state"], progress, age)
    lease = in_force(output.layout.lease, output.files)
    holder = lease[1] if lease is not None and lease[1].run_id == progress["run_id"] else None
    renewed = now - (holder.expires_at - TTL_S) if holder is not None and holder.expires_at else None
    reason = _reason_dead(holder, lease, now)
    if reason:
        message = f"it seems dead: {reason}; run the same command again to continue"
        return RunStatus(output.folder, "dead", message, progress, age, renewed)
    if age > MAX_MISSED_WRITES * progress["every_s"] + GRACE_S:
        message = "it renews its lease but has not written its progress: the storage may be slow, or the run hangs"
        return RunStatus(output.folder, "silent", message, progress, age, renewed)
    return RunStatus(output.folder, RUNNING, RUNNING, progress, age, renewed)


def _reason_dead(holder: Holder | None, lease: tuple[int, Holder] | None, now: float) -> str:
    """Return why the run cannot be alive; "" if it may be."""
    if holder is None:
        return f"run {lease[1].run_id} has its lease" if lease is not None else "its lease was deleted"
    if not holder.expires_at:
        return "it released its lease without a final state"
    if is_gone(holder.process):
        return "its process has ended"
    late = now - holder.expires_at
    return f"its lease expired {late:.0f} s ago" if late >= GRACE_S else ""


def _latest(output: Output, run_id: str | None) -> str:
    """Return the id of the latest run, or ``run_id``; "" if there is none. Ids sort by time."""
    folders = (output.layout.progresses, output.layout.runs)
    uris = (info.uri for folder in folders for info in output.files.list(folder, suffixes=(".json",)))
    ids = {name(uri).removesuffix(".json") for uri in uris}
    return max((one for one in ids if run_id in (None, one)), default="")


def _read(uri: str, kind: type[RunFacts], files: Files) -> dict[str, Any] | None:
    """Read a run record or progress object; return None if it is missing, or damaged (with a warning)."""
    try:
        return parse_facts(kind, files.read(uri))
    except FetchError:
        return None
    except ValueError as error:
        log.warning(f"{uri} is ignored, because it is damaged: {error}")
        return None
