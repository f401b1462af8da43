"""A lease on an output, so that one run at a time writes to it. It needs nothing but create-if-absent.

``lease/<number>.json`` names the holder. Only its owner rewrites that file, to renew it. A run that finds the highest number
expired creates the next one; if several try, the storage lets one succeed. An owner that was suspended finds its own lease
expired, or a higher number, and stops. If the owner's process ran on this machine since its last boot and has ended, its lease
counts as expired.

Clocks of machines are never compared. The age of a lease is the difference of two times that the storage gave: those of the
lease and of a file that was written a moment ago. Where the storage gives no times, the waiting run watches the lease. An owner
measures its own lease with a clock that cannot be set.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from pipeline.config.sections import Moment, Stored, parse
from pipeline.errors import FetchError, LeaseHeld, PipelineError, StorageError, WriteError
from pipeline.log import log
from pipeline.output.output import Output
from pipeline.storage.files import Files
from pipeline.storage.uris import join, name

TTL_S = 120.0
"""Seconds until a lease expires that is not renewed. The next run waits this long for a run that was killed elsewhere."""

GRACE_S = 15.0
"""Seconds after its expiry before a lease is taken over: its owner may be slow to notice, and stores round times."""

MAX_LISTINGS = 20
"""Attempts to read a lease folder that changes."""

_SAME_MOMENT = "another run started at the same moment; wait until it ends"
_EXPIRED = "this run's lease expired before it could be renewed; run the same command again to continue"


class Holder(Stored):
    """The holder of a lease."""

    owner: str
    run_id: str
    token: str
    expires_at: Moment
    """Seconds since 1970 UTC by the owner's clock, for people. 0: released."""
    process: str = ""
    """The holder's process as ``this_process`` returns it."""

    def encode(self) -> bytes:
        """Return the lease as JSON, with the expiry time also in ISO 8601."""
        until = datetime.fromtimestamp(self.expires_at, UTC).isoformat(timespec="seconds")
        return json.dumps(self.model_dump() | {"until": until}).encode()


def clock_s() -> float:
    """Return seconds since some moment. Unlike the time of day, they cannot be set. On Linux they count suspended time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def new_run_id(mark: str = "") -> str:
    """Return a unique id that sorts by time: ``20261122T101500.123Z-3fa9c1``, with the mark before its random part."""
    return _run_id(datetime.now(UTC), mark + secrets.token_hex(3))


def run_id_after(run_id: str, output: Output) -> str:
    """Return a run id that sorts after all runs of an output, even if the clock of one was ahead.

    Args:
        run_id: Returned as it is if it sorts after the run that held the lease last, and after those with a record: a run
            without work has no lease. Otherwise its time is replaced.
        output: The output.

    Raises:
        StorageError: The lease cannot be read, or the records cannot be listed.
    """
    held = in_force(output.layout.lease, output.files)
    ids = [name(uri).removesuffix(".json") for uri in _list(output.layout.runs, output.files)]
    latest = max((one for one in (held[1].run_id if held else "", *ids) if _moment_of(one) is not None), default="")
    moment = _moment_of(latest)
    if latest < run_id or moment is None:
        return run_id
    log.warning(f"run {latest} seems to be later than now: its machine or this one has a wrong clock")
    try:
        return _run_id(moment + timedelta(milliseconds=1), run_id.partition("Z-")[2])
    except OverflowError as error:
        raise StorageError(f"run {latest} of {output.folder} is of the year 9999; delete its lease and record") from error


def _run_id(moment: datetime, suffix: str) -> str:
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z-{suffix}"


def _moment_of(run_id: str) -> datetime | None:
    """Return the time in a run id; None if it has none."""
    with suppress(ValueError):
        return datetime.strptime(run_id.partition("Z-")[0], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
    return None


class Lease:
    """A held lease. A thread renews it until it is released. Use it as a context manager.

    Args:
        output: What it protects.
        run_id: The run, as ``new_run_id`` returns it.
        ttl_s: Seconds until it expires if it is not renewed.
        clock: Measures this process's own lease; for tests.

    Raises:
        LeaseHeld: Another run holds it. The message names the run and the expiry time.
        StorageError: The storage cannot be read or written.
    """

    def __init__(self, output: Output, run_id: str, *, ttl_s: float = TTL_S, clock: Callable[[], float] = clock_s) -> None:
        self._folder, self._files, self._ttl_s, self._clock = output.layout.lease, output.files, ttl_s, clock
        self._run_id, self._token = run_id, secrets.token_hex(8)
        self.lost: PipelineError | None = None
        self.owner = f"{_user()}@{socket.gethostname()}, process {os.getpid()}"
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
        return time.time() - (self._clock() - (self._until - self._ttl_s))

    def stored_at(self) -> float:
        """Return the time at which the storage got this lease, by its own clock: a lower bound of its time now.

        Raises:
            StorageError: It cannot be looked up.
        """
        return self._files.stat(self._uri(self._number)).modified

    def release(self) -> None:
        """Free the lease for the next run. The work must be over, or end with this process."""
        self._stop.set()
        if self.lost is None:
            # Not deleted: numbers must never start again, or a suspended run could mistake another's lease for its own.
            self._write(release=True)

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
        self._write()

    def _take(self) -> int:
        highest = self._highest()
        if highest is not None:
            self._check_free(*highest)
        number = 1 if highest is None else highest[0] + 1
        self._until = self._clock() + self._ttl_s
        try:
            created = self._files.create(self._uri(number), self._holder().encode())
        except WriteError as error:
            raise StorageError(f"the run's lease cannot be written: {error}") from error
        winner = self._highest()
        # If the response to our own creation was lost, the file is ours although it was not created.
        if winner is None or winner[0] != number or winner[1].token != self._token:
            if created:  # the number may be an old one: the folder changed while it was listed
                self._files.delete(self._uri(number))
            raise LeaseHeld(_held_by(winner[1], self._ttl_s + GRACE_S) if winner else _SAME_MOMENT)
        for uri in _list(self._folder, self._files):
            if _number(uri) < number:
                self._files.delete(uri)
        return number

    def _check_free(self, number: int, holder: Holder) -> None:
        """Check that a lease was released or has expired.

        Raises:
            LeaseHeld: It is held, or the run that held it has a later id than this one.
        """
        if holder.expires_at and not is_gone(holder.process):
            lifetime_s = self._ttl_s + GRACE_S
            age_s = self._age_s(number)
            if age_s is None:
                log.info(f"waiting up to {lifetime_s:.0f} s to see whether run {holder.run_id} renews its lease")
                age_s = self._watch(number, holder, lifetime_s)
            if age_s < lifetime_s:
                raise LeaseHeld(_held_by(holder, lifetime_s - age_s))
        if _moment_of(holder.run_id) is not None and holder.run_id >= self._run_id:
            raise LeaseHeld(f"run {holder.run_id} has just ended in this output; run the same command again")

    def _age_s(self, number: int) -> float | None:
        """Return the seconds since a lease was written, by the storage's own times; None where it gives none."""
        probe = join(self._folder, f".probe-{self._token}")
        try:
            self._files.write(probe, b"This file asks the storage for its time. It may be deleted.\n")
            now = self._files.stat(probe).modified
            self._files.delete(probe)
            then = self._files.stat(self._uri(number)).modified
        except (StorageError, WriteError) as error:
            if self._highest_number() != number:
                raise LeaseHeld(_SAME_MOMENT) from error
            raise StorageError(f"the run's lease cannot be checked: {error}") from error
        return max(0.0, now - then) if now and then else None

    def _watch(self, number: int, holder: Holder, lifetime_s: float) -> float:
        """Return the seconds for which a lease stays unchanged, at most ``lifetime_s``."""
        start = self._clock()
        while (passed := self._clock() - start) < lifetime_s:
            if self._highest() != (number, holder):
                return 0.0
            time.sleep(min(1.0, lifetime_s - passed))
        return lifetime_s

    def _write(self, *, release: bool = False) -> None:
        with self._writing:  # a renewal in progress must not overtake the release
            if self._stop.is_set() and not release:
                return
            start = self._clock()
            try:
                self._files.write(self._uri(self._number), self._holder(release=release).encode())
            except WriteError as error:
                raise StorageError(f"the run's lease cannot be renewed: {error}") from error
            self._until = 0.0 if release else start + self._ttl_s

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

    def _holder(self, *, release: bool = False) -> Holder:
        expires_at = 0.0 if release else time.time() + self._ttl_s
        return Holder(owner=self.owner, run_id=self._run_id, token=self._token, expires_at=expires_at, process=this_process())

    def _uri(self, number: int) -> str:
        return join(self._folder, f"{number:06}.json")

    def _highest(self) -> tuple[int, Holder] | None:
        return in_force(self._folder, self._files)

    def _highest_number(self) -> int:
        return max((_number(uri) for uri in _list(self._folder, self._files)), default=0)


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
            holder = parse(Holder, files.read(found[-1]))
        except FetchError as error:
            if files.exists(found[-1]):
                raise StorageError(f"the run's lease cannot be read: {error}") from error
            continue  # a higher number has replaced it since the listing
        except ValueError as error:
            raise StorageError(f"{found[-1]} is not a lease ({error}); delete it if no run is active there") from error
        return _number(found[-1]), holder
    raise StorageError(f"the lease in {folder} changes faster than it can be read; run the command again")


def this_process() -> str:
    """Return ``<boot id>/<PID namespace>/<PID>@<seconds from boot to its start>``, or "" where that is unknown (not Linux)."""
    return process_of(os.getpid())


def process_of(pid: int) -> str:
    """Return the same for any process of this machine; "" also for one that has ended."""
    machine = _machine()
    with suppress(psutil.Error):
        return f"{machine}/{pid}@{_started_s(psutil.Process(pid)):.2f}" if machine else ""
    return ""


def is_running_here(process: str) -> bool:
    """Return whether a process runs on this machine."""
    machine = _machine()
    return bool(machine) and process.startswith(f"{machine}/") and not is_gone(process)


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


def _user() -> str:
    """Return the user's name, in a container without one the user id, for people."""
    return os.environ.get("USER") or os.environ.get("USERNAME") or (f"uid {os.getuid()}" if hasattr(os, "getuid") else "?")


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
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return False
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


def _held_by(holder: Holder, left_s: float) -> str:
    return (
        f"another run is active in this output: {holder.owner}, run {holder.run_id}. Wait until it ends; if it was killed, its "
        f"lease expires in {left_s:.0f} s"
    )
