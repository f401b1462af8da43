"""The status of a run, from its output alone: progress, lease, run record and index.

Neither Ray nor the run's machine needs to be reachable. Clocks of machines may differ, so a viewer who looks several times
(``Seen``) judges by whether the lease is renewed between two looks. Ages follow this machine's clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import ConfigError, FetchError
from pipeline.log import log
from pipeline.output.lease import GRACE_S, TTL_S, Holder, clock_s, in_force, is_gone
from pipeline.output.output import Output, find_outputs
from pipeline.output.progress import RUNNING, ProgressFacts
from pipeline.output.run_record import RunFacts, parse_facts
from pipeline.output.summary import summarise
from pipeline.schema import STATUSES
from pipeline.storage.files import Files
from pipeline.storage.uris import name

CONFIRM_S = TTL_S / 4 + GRACE_S
"""Seconds for which a lease that seems to have expired is watched. It is renewed every ``TTL_S / 4`` seconds."""

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
    is_open: bool = False
    """Whether the next looks decide if the run is alive."""

    @property
    def sign_age_s(self) -> float | None:
        """Seconds since the last sign of life."""
        return min((age for age in (self.progress_age_s, self.lease_age_s) if age is not None), default=None)

    def encode(self) -> str:
        """Return the status as JSON."""
        facts = {name: value for name, value in asdict(self).items() if name != "is_open"}
        return json.dumps(facts | {"sign_age_s": self.sign_age_s}, ensure_ascii=False)


class Seen:
    """A run's lease as a viewer has seen it, and for how long, by a clock that cannot be set.

    Args:
        clock: For tests.
    """

    def __init__(self, clock: Callable[[], float] = clock_s) -> None:
        self._clock, self._since = clock, 0.0
        self._lease: tuple[int, float] | None = None
        self.is_renewed = False
        """Whether the lease has changed since the first look."""

    def unchanged_s(self, lease: tuple[int, float]) -> float:
        """Return for how many seconds a lease, its number and its expiry, has been seen as it is."""
        now = self._clock()
        if lease != self._lease:
            self.is_renewed = self._lease is not None
            self._lease, self._since = lease, now
        return now - self._since


def read_status(
    uri: str, files: Files, *, run_id: str | None = None, now: float | None = None, seen: Seen | None = None
) -> RunStatus:
    """Return the status of the latest run at or below ``uri``, or of the run with this id.

    Args:
        uri: An output, or the folder above.
        files: Access to storage.
        run_id: The run. None: the latest one.
        now: Seconds since 1970, for tests.
        seen: What the earlier looks have seen. None for a single look, which trusts the clocks.

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
            return _judge(output, progress, time.time() if now is None else now, seen)
    elif output is not None and run_id is None and (counts := summarise(output).counts):
        facts = {"run_id": None} | {status: counts.get(status, 0) for status in STATUSES}
        return RunStatus(output.folder, "over", "no run record; the numbers are the index's", facts)
    raise ConfigError(f"no run {run_id or ''}".rstrip() + f" under {uri}; a run writes its progress there when it starts")


def _judge(output: Output, progress: dict[str, Any], now: float, seen: Seen | None) -> RunStatus:
    """Decide whether the run of a progress object is alive."""
    updated = datetime.fromisoformat(progress["updated_at"]).timestamp()
    age = max(0.0, now - updated)
    if progress["state"] != RUNNING:
        return RunStatus(output.folder, "over", progress["state"], progress, age)
    lease = in_force(output.layout.lease, output.files)
    holder = lease[1] if lease is not None and lease[1].run_id == progress["run_id"] else None
    written = holder.expires_at - TTL_S if holder is not None and holder.expires_at else None  # by the clock of its machine
    renewed = None if written is None else max(0.0, now - written)
    reason = _reason_gone(holder, lease)
    if not reason and lease is not None:
        reason, is_open = _reason_expired(*lease, now, seen)
        if is_open:
            message = f"running; its lease seems to have expired, which {CONFIRM_S:.0f} s will show"
            return RunStatus(output.folder, RUNNING, message, progress, age, renewed, is_open=True)
    if reason:
        message = f"it seems dead: {reason}; run the same command again to continue"
        return RunStatus(output.folder, "dead", message, progress, age, renewed)
    if written is not None and written - updated > MAX_MISSED_WRITES * progress["every_s"] + GRACE_S:  # times of one machine
        message = "it renews its lease but has not written its progress: the storage may be slow, or the run hangs"
        return RunStatus(output.folder, "silent", message, progress, age, renewed)
    return RunStatus(output.folder, RUNNING, RUNNING, progress, age, renewed)


def _reason_gone(holder: Holder | None, lease: tuple[int, Holder] | None) -> str:
    """Return why the run is certainly not alive; "" if it may be."""
    if holder is None:
        return f"run {lease[1].run_id} has its lease" if lease is not None else "its lease was deleted"
    if not holder.expires_at:
        return "it released its lease without a final state"
    return "its process has ended" if is_gone(holder.process) else ""


def _reason_expired(number: int, holder: Holder, now: float, seen: Seen | None) -> tuple[str, bool]:
    """Return why the lease must have expired, or "", and whether that is open until the next look."""
    late = now - holder.expires_at
    said = f"its lease expired {late:.0f} s ago" if late >= GRACE_S else ""
    if seen is None:
        return said, False
    unchanged = seen.unchanged_s((number, holder.expires_at))
    if unchanged >= TTL_S + GRACE_S:
        return f"its lease was not renewed for {unchanged:.0f} s", False
    if not said or seen.is_renewed:  # then the clocks differ
        return "", False
    return (said, False) if unchanged >= CONFIRM_S else ("", True)


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
