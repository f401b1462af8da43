"""A lease on an output, so that one run at a time writes to it. It needs nothing but create-if-absent.

``lease/<number>.json`` names the holder and the expiry time. Only its owner rewrites that file, to renew it. A run that finds
the highest number expired creates the next one; if several try, the storage lets one succeed. An owner that was suspended
finds its own lease expired, or a higher number, and stops. If the owner's process ran on this machine since its last boot and
has ended, its lease counts as expired.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from pipeline.errors import FetchError, LeaseHeld, PipelineError, StorageError, WriteError
from pipeline.log import log
from pipeline.output.output import Output
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name

TTL_S = 120.0
"""Seconds until a lease expires that is not renewed. The next run waits this long for a run that was killed elsewhere."""

GRACE_S = 15.0
"""Seconds after its expiry before a lease is taken over, since clocks differ."""

MAX_LISTINGS = 20
"""Attempts to read a lease folder that changes."""

_EXPIRED = "this run's lease expired before it could be renewed; run the same command again to continue"


@dataclass(frozen=True)
class Holder:
    """The holder of a lease."""

    owner: str
    run_id: str
    token: str
    expires_at: float
    """Seconds since 1970, UTC."""
    process: str = ""
    """The holder's process as ``this_process`` returns it."""

    def encode(self) -> bytes:
        """Return the lease as JSON, with the expiry time also in ISO 8601."""
        until = datetime.fromtimestamp(self.expires_at, UTC).isoformat(timespec="seconds")
        return json.dumps(asdict(self) | {"until": until}).encode()


class Lease:
    """A held lease. A thread renews it until it is released. Use it as a context manager.

    Args:
        clock: Returns seconds since 1970; for tests.

    Raises:
        LeaseHeld: Another run holds it. The message names the run and the expiry time.
        StorageError: The storage cannot be read or written.
    """

    def __init__(self, output: Output, run_id: str, *, ttl_s: float = TTL_S, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._files, self._ttl_s, self._clock = output.layout.lease, output.files, ttl_s, clock
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
        except StorageError as error:  # it must not hide the run's own error
            log.warning(f"{error}; the next run waits until it expires")

    @property
    def renewed_at(self) -> float:
        """Time of the last renewal in seconds since 1970."""
        return self._until - self._ttl_s

    def release(self) -> None:
        """Free the lease for the next run. The work must be over, or end with this process."""
        self._stop.set()
        if self.lost is None:
            # Not deleted: numbers must never start again, or a suspended run could mistake another's lease for its own.
            self._write(until=0.0)

    def check(self) -> None:
        """Raise if the lease was lost. The protected work calls this regularly.

        Raises:
            LeaseHeld: The lease was lost. Committed items stay.
            StorageError: The lease could not be renewed in time.
        """
        if self.lost is None and self._clock() >= self._until:
            self.lost = LeaseHeld(_EXPIRED)
        if self.lost is not None:
            raise self.lost

    def renew(self) -> None:
        """Extend the lease by its lifetime.

        Raises:
            LeaseHeld: It has expired, or another run has taken it.
            StorageError: The storage did not answer in time.
        """
        if self._clock() >= self._until:
            raise LeaseHeld(_EXPIRED)
        highest = self._highest()  # before writing: storage without create-if-absent may have let another run in
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
            created = self._files.create(self._uri(number), self._holder(self._until).encode())
        except WriteError as error:
            raise StorageError(f"the run's lease cannot be written: {error}") from error
        winner = self._highest()
        # If the response to our own creation was lost, the file is ours although it was not created.
        if winner is None or winner[0] != number or winner[1].token != self._token:
            if created:  # the number may be an old one: the folder changed while it was listed
                self._files.delete(self._uri(number))
            raise LeaseHeld(_held_by(winner[1], self._clock()) if winner else "another run started at the same moment")
        for uri in _list(self._folder, self._files):
            if _number(uri) < number:
                self._files.delete(uri)
        return number

    def _write(self, until: float) -> None:
        with self._writing:  # a renewal in progress must not overtake the release
            if until and self._stop.is_set():
                return
            try:
                self._files.write(self._uri(self._number), self._holder(until).encode())
            except WriteError as error:
                raise StorageError(f"the run's lease cannot be renewed: {error}") from error
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

    def _highest(self) -> tuple[int, Holder] | None:
        return in_force(self._folder, self._files)


def in_force(folder: str, files: Files) -> tuple[int, Holder] | None:
    """Return number and holder of the newest lease; None if there never was one.

    Raises:
        StorageError: The lease cannot be read, or is invalid.
    """
    for _ in range(MAX_LISTINGS):
        found = _list(folder, files)
        if not found:
            return None
        try:
            content = json.loads(files.read(found[-1]))
            holder = Holder(*(content[key] for key in ("owner", "run_id", "token", "expires_at", "process")))
        except FetchError as error:
            if files.exists(found[-1]):
                raise StorageError(f"the run's lease cannot be read: {error}") from error
            continue  # a higher number has replaced it since the listing
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{found[-1]} is not a lease; delete it if no run is active there") from error
        return _number(found[-1]), holder
    raise StorageError(f"the lease in {folder} changes faster than it can be read; run the command again")


def this_process() -> str:
    """Return ``<boot id>/<PID namespace>/<PID>@<seconds from boot to its start>``, or "" where that is unknown (not Linux)."""
    machine = _machine()
    return f"{machine}/{os.getpid()}@{_started_s(psutil.Process()):.2f}" if machine else ""


def is_gone(process: str) -> bool:
    """Return whether a process has certainly ended: it ran on this machine, and its PID is free or another process's."""
    machine, _, rest = process.rpartition("/")
    pid, _, started = rest.partition("@")
    if not machine or machine != _machine() or not pid.isdigit():
        return False
    try:
        found = psutil.Process(int(pid))
        if found.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return True
        return abs(_started_s(found) - float(started)) > 1.5  # the kernel's boot time is rounded to seconds
    except psutil.NoSuchProcess:
        return not _is_hidden(int(pid))
    except (psutil.Error, ValueError):
        return False


def _machine() -> str:
    """Identify the boot of this machine and the PID namespace of this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started_s(process: psutil.Process) -> float:
    """Return the seconds from boot to the start of a process. Unlike ``create_time``, they do not follow the system clock."""
    return float(process.create_time() - psutil.boot_time())


def _is_hidden(pid: int) -> bool:
    """Return whether a process exists that /proc does not show to this user (mount option ``hidepid``)."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _list(folder: str, files: Files) -> list[str]:
    return sorted(info.uri for info in files.list(folder, suffixes=(".json",)))


def _number(uri: str) -> int:
    try:
        return int(name(uri).removesuffix(".json"))
    except ValueError as error:
        raise StorageError(f"{uri} is not a lease; delete it if no run is active there") from error


def _held_by(holder: Holder, now: float) -> str:
    left = max(0, holder.expires_at + GRACE_S - now)
    return (
        f"another run is active in this output: {holder.owner}, run {holder.run_id}. Wait until it ends; if it was killed, its "
        f"lease expires in {left:.0f} s"
    )
