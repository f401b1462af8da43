"""One run at a time, on a disk and on a real S3 server. The tests set the clock."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LeaseHeld, StorageError
from pipeline.output.lease import GRACE_S, Lease, is_gone, this_process
from pipeline.output.output import Output
from pipeline.storage.files import Files


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(where: Any, clock: Clock) -> Any:
    output = Output.at(f"{where.root}/out", where.files)
    return lambda run_id="run-a": Lease(output, run_id, ttl_s=100, clock=clock)


def test_a_second_run_is_refused_with_the_name_of_the_first(lease: Any, clock: Clock) -> None:
    with lease("run-a") as held:
        clock.now += 99
        with pytest.raises(LeaseHeld, match=r"run run-a.*expires in 16 s"):
            lease("run-b")
        held.renew()
        clock.now += 99
        with pytest.raises(LeaseHeld):
            lease("run-b")
        assert LeaseHeld.exit_code == 5


def test_a_released_lease_is_free_at_once(lease: Any, where: Any) -> None:
    for run in ("run-a", "run-b", "run-c"):
        with lease(run) as held:
            held.renew()
    assert len(list(where.files.list(f"{where.root}/out/_matteline/lease"))) == 1


def test_the_lease_of_a_killed_run_is_taken_over_after_its_expiry(lease: Any, clock: Clock) -> None:
    lease("killed")  # never released, never renewed
    clock.now += 100 + GRACE_S - 1
    with pytest.raises(LeaseHeld, match="killed"):
        lease("next")
    clock.now += 2
    with lease("next") as held:
        held.renew()
        with pytest.raises(LeaseHeld, match="run next"):
            lease("third")


def test_a_suspended_owner_loses_its_lease(lease: Any, clock: Clock) -> None:
    sleeper = lease("sleeper")
    clock.now += 200
    taker = lease("taker")
    with pytest.raises(LeaseHeld, match="expired"):
        sleeper.renew()
    taker.renew()
    clock.now -= 150  # its clock is wrong, so its lease seems to be valid
    with pytest.raises(LeaseHeld, match=r"taken over; it is held by .*run taker"):
        sleeper.renew()


def test_a_suspended_owner_does_not_mistake_a_third_lease_for_its_own(lease: Any, clock: Clock) -> None:
    sleeper = lease("sleeper")
    clock.now += 200
    with lease("taker"):
        pass
    lease("third")
    clock.now -= 150
    with pytest.raises(LeaseHeld, match="run third"):
        sleeper.renew()


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
        held._write = lambda until: (write(until), renewed.set())  # type: ignore[method-assign, func-returns-value]
        assert renewed.wait(30)
        held.check()
        taken = where.files.read(f"{output.layout.lease}/000001.json").replace(b"run-a", b"thief")
        where.files.create(f"{output.layout.lease}/000009.json", taken)
        held._thread.join(30)
        with pytest.raises(LeaseHeld, match="taken over"):
            held.check()


def test_an_invalid_lease_is_named(where: Any, lease: Any) -> None:
    where.put("out/_matteline/lease/000001.json", b"{}")
    with pytest.raises(StorageError, match=r"000001.json is not a lease"):
        lease()


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
