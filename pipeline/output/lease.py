"""One run at a time: a lease on a recipe's folder, made of nothing but objects that can be created only once.

``lease/<number>.json`` says who holds it and until when. Only its owner ever rewrites that file, to renew it. Whoever
finds the highest number expired creates the next one, and of any number that try, the store lets one succeed. An owner
that comes back late finds its own time over, or a higher number beside it, and stops. Where the owner's process can be looked
for (it was started on this machine, since its last boot) and is gone, its lease is as good as expired.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import FetchError, LeaseHeld, PipelineError, StorageError, WriteError
from pipeline.log import log
from pipeline.output.layout import Layout
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name

TTL_S = 120.0
"""How long a lease lives without being renewed: this long a run killed on another machine keeps the next one waiting."""

LISTINGS = 20
"""IsolatedBatch to see a lease folder that is changing."""

_RAN_OUT = "this run's lease ran out before it could be renewed; the same command continues"

GRACE_S = 15.0
"""How much later than its expiry a lease may be taken over: clocks differ."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease."""

    owner: str
    run_id: str
    token: str
    expires_at: float
    """Seconds since 1970, UTC."""
    process: str = ""
    """Which process that is (``this_process``), empty where that can't be told."""

    def encode(self) -> bytes:
        """As it is stored, with the time once more for people."""
        until = datetime.fromtimestamp(self.expires_at, UTC).isoformat(timespec="seconds")
        return json.dumps(self.__dict__ | {"until": until}).encode()


class Lease:
    """A held lease. Renewed by a thread of its own until it is released; use as a context manager.

    Args:
        clock: seconds since 1970, for tests.

    Raises:
        LeaseHeld: another run holds it; the message says who, and until when.
        StorageError: the store can't be asked or written to.
    """

    def __init__(
        self, layout: Layout, run_id: str, files: Files, *, ttl_s: float = TTL_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._files, self._ttl_s, self._clock = layout.lease, files, ttl_s, clock
        self._run_id, self._token = run_id, secrets.token_hex(8)
        self.lost: PipelineError | None = None
        self.owner = f"{os.environ.get('USER') or 'uid ' + str(os.getuid())}@{socket.gethostname()}, process {os.getpid()}"
        self._stop, self._writing = threading.Event(), threading.Lock()
        self._number = self._take()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.release()
        except StorageError as error:  # it must not hide what the run has to say
            log.warning(f"{error}; the next run waits until it expires")

    @property
    def renewed_at(self) -> float:
        """Seconds since 1970."""
        return self._until - self._ttl_s

    def release(self) -> None:
        """Free it for the next run. The work must be over, or about to end with this process."""
        self._stop.set()
        if self.lost is None:
            # Not deleted: numbers must never start again, or a run that slept could take another's lease for its own.
            self._write(until=0.0)

    def check(self) -> None:
        """To be called now and then by the work that the lease protects.

        Raises:
            LeaseHeld: the lease was lost; what was committed stays.
            StorageError: it could not be renewed in time.
        """
        if self.lost is None and self._clock() >= self._until:
            self.lost = LeaseHeld(_RAN_OUT)
        if self.lost is not None:
            raise self.lost

    def renew(self) -> None:
        """Live for another while.

        Raises:
            LeaseHeld: its time was over, or another run has taken it.
            StorageError: the store could not be asked in time.
        """
        if self._clock() >= self._until:
            raise LeaseHeld(_RAN_OUT)
        highest = self._highest()  # before writing: a store that doesn't keep create-if-absent may have let another in
        if highest is None or highest[0] != self._number or highest[1].token != self._token:
            other = "nobody" if highest is None else f"{highest[1].owner} (run {highest[1].run_id})"
            raise LeaseHeld(f"this run's lease was taken over; it is held by {other}")
        self._write(self._clock() + self._ttl_s)

    def _take(self) -> int:
        highest = self._highest()
        if highest is not None and self._clock() < highest[1].expires_at + GRACE_S and not is_gone(highest[1].process):
            raise LeaseHeld(_held_by(highest[1], self._clock()))
        number = 1 if highest is None else highest[0] + 1
        self._until = self._clock() + self._ttl_s
        try:
            first = self._files.create(self._uri(number), self._holder(self._until).encode())
        except WriteError as error:
            raise StorageError(f"the run's lease can't be written: {error}") from error
        winner = self._highest()
        # Not the first, and yet ours: the answer to our own creation was lost on the way.
        ours = winner is not None and winner[0] == number and winner[1].token == self._token
        if not ours:
            if first:  # our number may be an old one: the folder changed while it was listed
                self._files.delete(self._uri(number))
            raise LeaseHeld(_held_by(winner[1], self._clock()) if winner else "another run started at the same moment")
        for uri in self._all():
            if _number(uri) < number:
                self._files.delete(uri)
        return number

    def _write(self, until: float) -> None:
        with self._writing:  # a renewal on its way must not overtake the release
            if until and self._stop.is_set():
                return
            try:
                self._files.write(self._uri(self._number), self._holder(until).encode())
            except WriteError as error:
                raise StorageError(f"the run's lease can't be renewed: {error}") from error
            self._until = until

    def _keep(self) -> None:
        while not self._stop.wait(self._ttl_s / 4):
            try:
                self.renew()
            except LeaseHeld as error:
                self.lost = error
                return
            except StorageError as error:
                if self._clock() >= self._until:
                    self.lost = error
                    return

    def _holder(self, until: float) -> Holder:
        return Holder(self.owner, self._run_id, self._token, until, this_process())

    def _uri(self, number: int) -> str:
        return join(self._folder, f"{number:06}.json")

    def _all(self) -> list[str]:
        return _all(self._folder, self._files)

    def _highest(self) -> tuple[int, Holder] | None:
        return in_force(self._folder, self._files)


def in_force(folder: str, files: Files) -> tuple[int, Holder] | None:
    """The lease in force and its number; None if there never was one.

    A file that vanishes meanwhile was replaced by a higher one.

    Raises:
        StorageError: it can't be read, or is none.
    """
    for _ in range(LISTINGS):
        found = _all(folder, files)
        if not found:
            return None
        try:
            content = json.loads(files.read(found[-1]))
            holder = Holder(*(content[key] for key in ("owner", "run_id", "token", "expires_at", "process")))
        except FetchError as error:
            if files.exists(found[-1]):
                raise StorageError(f"the run's lease can't be read: {error}") from error
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{found[-1]} is no lease; if no run is at work there, delete it") from error
        return _number(found[-1]), holder
    raise StorageError(f"the lease in {folder} changes faster than it can be read")


def _all(folder: str, files: Files) -> list[str]:
    return sorted(info.uri for info in files.list(folder, suffixes=(".json",)))


def this_process() -> str:
    """``<boot of this machine>/<PID namespace>/<PID>/<start time>``; empty where the system doesn't tell (not Linux)."""
    return _process(os.getpid())


def is_gone(process: str) -> bool:
    """It certainly doesn't run any more: it was on this machine, where its PID is nobody's now or another process's."""
    machine, _, rest = process.rpartition("/")[0].rpartition("/")
    mine = this_process().rsplit("/", 2)[0]
    if not machine or machine != mine or not rest.isdigit():
        return False
    found = _process(int(rest))
    return found != process if found else not _runs(int(rest))


def _runs(pid: int) -> bool:
    """For what /proc doesn't show: it may hide others' processes (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _stat(pid)[:1] not in (["Z"], ["X"])


def _stat(pid: int) -> list[str]:
    """What /proc says of a process from its state on; empty where it says nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return stat.rpartition(")")[2].split()  # before it stands the command's name, which may hold spaces


def _process(pid: int) -> str:
    facts = _stat(pid)
    if not facts or facts[0] in ("Z", "X"):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return f"{boot}/{namespace}/{pid}/{facts[19]}"


def _number(uri: str) -> int:
    try:
        return int(name(uri).removesuffix(".json"))
    except ValueError as error:
        raise StorageError(f"{uri} is no lease; if no run is at work there, delete it") from error


def _held_by(holder: Holder, now: float) -> str:
    left = max(0, holder.expires_at + GRACE_S - now)
    return (
        f"another run is at this output: {holder.owner}, run {holder.run_id}. It is renewed while that run lives, and free "
        f"{left:.0f} s from now if it was killed"
    )
