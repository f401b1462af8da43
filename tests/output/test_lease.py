"""One run at a time, on a disk and on a real S3 server. The tests set the owners' clocks and the storage's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LeaseHeld, StorageError
from pipeline.output.lease import GRACE_S, Lease, is_gone, new_run_id, run_id_after, this_process
from pipeline.output.output import Output
from pipeline.storage.backend import FileInfo
from pipeline.storage.files import Files


class Clock:
    """The clock of one machine."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``later(seconds)``: the storage gets older; what it holds was written so many seconds earlier."""
    real = Files.stat
    passed = 0.0

    def stat(files: Files, uri: str) -> FileInfo:
        info = real(files, uri)
        return info._replace(modified=info.modified + passed) if ".probe-" in uri else info

    def pass_on(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(Files, "stat", stat)
    return pass_on


@pytest.fixture
def lease(where: Any, clock: Clock) -> Any:
    output = Output.at(f"{where.root}/out", where.files)
    return lambda run_id="run-a": Lease(output, run_id, ttl_s=100, clock=clock)


def test_a_second_run_is_refused_with_the_name_of_the_first(lease: Any, later: Any) -> None:
    with lease("run-a") as held:
        later(98)
        with pytest.raises(LeaseHeld, match=r"run run-a.*expires in 1[67] s"):
            lease("run-b")
        held.renew()
        with pytest.raises(LeaseHeld):
            lease("run-b")
        assert LeaseHeld.exit_code == 5


def test_a_released_lease_is_free_at_once(lease: Any, where: Any) -> None:
    for run in ("run-a", "run-b", "run-c"):
        with lease(run) as held:
            held.renew()
    assert len(list(where.files.list(f"{where.root}/out/_matteline/lease"))) == 1


def test_the_lease_of_a_killed_run_is_taken_over_after_its_expiry(lease: Any, later: Any) -> None:
    lease("killed")  # never released, never renewed
    later(100 + GRACE_S - 2)
    with pytest.raises(LeaseHeld, match="killed"):
        lease("next")
    later(4)
    with lease("next") as held:
        held.renew()
        later(-(100 + GRACE_S))
        with pytest.raises(LeaseHeld, match="run next"):
            lease("third")


@pytest.mark.parametrize("ahead_s", [-600, 600])
def test_the_time_of_day_decides_nothing(
    lease: Any, where: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    """The clock of the waiting machine is ten minutes ahead, or behind."""
    with lease("run-a") as held:
        real = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real + ahead_s)
            with pytest.raises(LeaseHeld, match=r"run run-a"):
                Lease(Output.at(f"{where.root}/out", where.files), "run-b", ttl_s=100, clock=clock)
        held.renew()
        held.check()


def test_without_times_the_lease_is_watched(lease: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    real, slept = Files.stat, []
    monkeypatch.setattr(Files, "stat", lambda files, uri: real(files, uri)._replace(modified=0.0))
    held = lease("run-a")

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 50:
            held._write()  # renewed

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(LeaseHeld, match=r"run run-a"):
        lease("run-b")
    assert len(slept) == 50
    lease("run-c")
    assert sum(slept[50:]) == pytest.approx(100 + GRACE_S)


def test_a_suspended_owner_loses_its_lease(lease: Any, clock: Clock, later: Any) -> None:
    sleeper = lease("sleeper")
    later(200)
    clock.now += 200
    taker = lease("taker")
    with pytest.raises(LeaseHeld, match="expired"):
        sleeper.renew()
    taker.renew()
    clock.now -= 150  # its machine was suspended in a way that its clock does not know of
    with pytest.raises(LeaseHeld, match=r"taken over; it is held by .*run taker"):
        sleeper.renew()


def test_a_suspended_owner_does_not_mistake_a_third_lease_for_its_own(lease: Any, clock: Clock, later: Any) -> None:
    sleeper = lease("sleeper")
    later(200)
    clock.now += 200
    with lease("taker"):
        pass
    lease("third")
    clock.now -= 150
    with pytest.raises(LeaseHeld, match="run third"):
        sleeper.renew()


def test_ids_of_runs_follow_the_order_of_their_leases(lease: Any, where: Any) -> None:
    """A run on a machine whose clock is behind."""
    output, early = Output.at(f"{where.root}/out", where.files), "20260101T100000.000Z-aaaaaa"
    with lease("20260101T120000.500Z-bbbbbb"):
        pass
    with pytest.raises(LeaseHeld, match="run 20260101T120000.500Z-bbbbbb has just ended in this output"):
        lease(early)
    ordered = run_id_after(early, output)
    assert ordered.startswith("20260101T120000.501Z-")
    with lease(ordered):
        pass
    assert run_id_after("20260101T120001.000Z-cccccc", output) == "20260101T120001.000Z-cccccc"
    assert run_id_after(early, Output.at(f"{where.root}/new", where.files)) == early
    assert new_run_id() < new_run_id()[:10] + "z"
    assert run_id_after("20260101T100000.000Z-watch-aaaaaa", output) == "20260101T120000.502Z-watch-aaaaaa"


def test_ids_of_runs_follow_the_records_of_runs_without_a_lease(lease: Any, where: Any) -> None:
    """A run without work, on a machine whose clock is ahead, writes a record and takes no lease."""
    output, early = Output.at(f"{where.root}/out", where.files), "20260101T100000.000Z-aaaaaa"
    with lease("20260101T090000.000Z-bbbbbb"):
        pass
    for run_id in ("20260101T120000.500Z-cccccc", "notes"):
        output.write(output.layout.run(run_id), b"{}")
    ordered = run_id_after(early, output)
    assert ordered == "20260101T120000.501Z-aaaaaa"
    with lease(ordered):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        *(b"{}", b"[]", b"no JSON", b'{"owner": 1, "run_id": 2, "token": 3, "expires_at": "soon", "process": 4}'),
        *(b"[" * 5000, b'{"owner": "", "run_id": "", "token": "", "expires_at": 1' + b"0" * 400 + b', "process": ""}'),
        *(b'{"owner": "", "run_id": "\\ud800", "token": "", "expires_at": 1, "process": ""}', b"\xff" * 2000),
        b'{"owner": "", "run_id": "", "token": "", "expires_at": NaN, "process": ""}',
    ],
)
def test_an_invalid_lease_is_named(where: Any, lease: Any, damage: bytes) -> None:
    where.put("out/_matteline/lease/000001.json", damage)
    with pytest.raises(StorageError, match=r"000001.json is not a lease"):
        lease()


def test_one_of_sixteen_simultaneous_starts_wins(lease: Any) -> None:
    start, winners, losers = threading.Barrier(16), [], []

    def run(number: int) -> None:
        start.wait()
        try:
            winners.append(lease(f"run-{number}"))
        except LeaseHeld as error:
            losers.append(str(error))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(losers)) == (1, 15)
    winners[0].renew()


def test_the_thread_renews_the_lease_and_reports_its_loss(where: Any) -> None:
    output = Output.at(f"{where.root}/out", where.files)
    with Lease(output, "run-a", ttl_s=2) as held:
        renewed = threading.Event()
        write = held._write
        held._write = lambda **how: (write(**how), renewed.set())  # type: ignore[method-assign, func-returns-value]
        assert renewed.wait(30)
        held.check()
        taken = where.files.read(f"{output.layout.lease}/000001.json").replace(b"run-a", b"thief")
        where.files.create(f"{output.layout.lease}/000009.json", taken)
        held._thread.join(30)
        with pytest.raises(LeaseHeld, match="taken over"):
            held.check()


def test_the_lease_of_a_killed_process_on_this_machine_is_free_at_once(tmp_path: Path) -> None:
    """A real process takes the lease and is killed."""
    program = (
        "import sys, time\n"
        "from pipeline.storage.files import Files\n"
        "from pipeline.output.lease import Lease\n"
        "from pipeline.output.output import Output\n"
        f"lease = Lease(Output.at({str(tmp_path / 'out')!r}, Files()), 'killed')\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    output = Output.at(str(tmp_path / "out"), Files())
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(LeaseHeld, match="run killed"):
        Lease(output, "next")
    holder.kill()
    time.sleep(0.2)
    with Lease(output, "next"):  # it is still a zombie: its exit status was not read
        pass
    holder.wait()


def test_only_a_process_that_certainly_ended_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, _, rest = this_process().rpartition("/")
    boot, namespace = machine.split("/")
    pid, started = rest.split("@")
    assert not is_gone(this_process())
    assert is_gone(f"{machine}/{pid}@{float(started) - 2:.2f}"), "the PID belongs to another process now"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert is_gone(f"{machine}/{ended.pid}@1")
    for unknown in (
        "",
        "x",
        f"other/{namespace}/{pid}@1",
        f"{boot}/1/{pid}@1",
        f"{machine}/x@1",
        f"{machine}/{pid}@x",
        "a/b/c@d",
    ):
        assert not is_gone(unknown)
    monkeypatch.setattr(os, "kill", lambda *_: (_ for _ in ()).throw(PermissionError))
    assert not is_gone(f"{machine}/{ended.pid}@1"), "/proc may hide the processes of other users"


def test_a_lease_that_is_replaced_while_it_is_read_is_not_missed(
    lease: Any, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B lists an earlier run's released lease. Before B reads it, A takes the next number and deletes the old one."""
    with lease("earlier"):
        pass
    real, taken = Files.read, []

    def read(files: Files, uri: str, **how: Any) -> bytes:
        if not taken and "/lease/" in uri:
            taken.append(None)
            taken[0] = lease("run-a")
        return real(files, uri, **how)

    monkeypatch.setattr(Files, "read", read)
    with pytest.raises(LeaseHeld, match="run run-a"):
        lease("run-b")
    monkeypatch.undo()
    taken[0].renew()


def test_the_response_to_the_own_creation_may_be_lost(lease: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Files.create
    monkeypatch.setattr(Files, "create", lambda files, uri, data: real(files, uri, data) and False)
    with lease("run-a") as held:
        held.renew()


def test_an_expired_lease_is_lost_at_once(lease: Any, clock: Clock) -> None:
    held = lease("run-a")
    held.check()
    clock.now += 101
    with pytest.raises(LeaseHeld, match="expired"):
        held.check()
