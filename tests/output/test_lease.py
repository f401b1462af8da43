"""One run at a time, on a disk and on a real S3 server. Time is a number that the tests move."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import LeaseHeld, StorageError
from pipeline.output.layout import Layout
from pipeline.output.lease import GRACE_S, Lease, is_gone, this_process
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
    layout = Layout(where.root, "recipe")
    return lambda run_id="run-a", **options: Lease(layout, run_id, where.files, ttl_s=100, clock=clock, **options)


def test_the_second_is_told_who_holds_it(lease: Any, clock: Clock) -> None:
    with lease("run-a") as held:
        clock.now += 99
        with pytest.raises(LeaseHeld, match=r"run run-a.*free 16 s from now"):
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
    assert len(list(where.files.list(f"{where.root}/recipe/lease"))) == 1


def test_a_dead_owner_is_replaced_only_after_its_time(lease: Any, clock: Clock) -> None:
    lease("killed")  # never released, never renewed
    clock.now += 100 + GRACE_S - 1
    with pytest.raises(LeaseHeld, match="killed"):
        lease("next")
    clock.now += 2
    with lease("next") as held:
        held.renew()
        with pytest.raises(LeaseHeld, match="run next"):
            lease("third")


def test_an_owner_that_slept_finds_its_lease_gone(lease: Any, clock: Clock) -> None:
    sleeper = lease("sleeper")
    clock.now += 200
    taker = lease("taker")
    with pytest.raises(LeaseHeld, match="ran out"):
        sleeper.renew()
    taker.renew()
    clock.now -= 150  # its clock is wrong, so it believes that it still has time
    with pytest.raises(LeaseHeld, match=r"taken over; it is held by .*run taker"):
        sleeper.renew()


def test_a_sleeper_is_not_fooled_when_its_taker_is_done(lease: Any, clock: Clock) -> None:
    sleeper = lease("sleeper")
    clock.now += 200
    with lease("taker"):
        pass
    lease("third")
    clock.now -= 150
    with pytest.raises(LeaseHeld, match="run third"):
        sleeper.renew()


def test_of_sixteen_starts_in_one_moment_one_wins(lease: Any) -> None:
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


def test_a_renewing_thread_keeps_it_and_tells_of_its_loss(where: Any) -> None:
    layout = Layout(where.root, "recipe")
    with Lease(layout, "run-a", where.files, ttl_s=2) as held:
        renewed = threading.Event()
        write = held._write
        held._write = lambda until: (write(until), renewed.set())  # type: ignore[method-assign, func-returns-value]
        assert renewed.wait(30)
        held.check()
        where.files.create(
            f"{layout.lease}/000009.json", where.files.read(f"{layout.lease}/000001.json").replace(b"run-a", b"thief")
        )
        held._thread.join(30)
        with pytest.raises(LeaseHeld, match="taken over"):
            held.check()


def test_what_is_no_lease_is_named(where: Any, lease: Any) -> None:
    where.put("recipe/lease/000001.json", b"{}")
    with pytest.raises(StorageError, match=r"000001.json is no lease"):
        lease()


def test_a_killed_process_of_this_machine_blocks_nobody(tmp_path: Path) -> None:
    """A real process takes the lease and is killed; before that the lease holds, after that it is free at once."""
    program = (
        "import sys, time\n"
        "from pipeline.storage.files import Files\n"
        "from pipeline.output.layout import Layout\n"
        "from pipeline.output.lease import Lease\n"
        f"lease = Lease(Layout({str(tmp_path)!r}, 'recipe'), 'killed', Files())\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    layout = Layout(str(tmp_path), "recipe")
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(LeaseHeld, match="run killed"):
        Lease(layout, "next", Files())
    holder.kill()
    time.sleep(0.2)
    with Lease(layout, "next", Files()):  # it is a zombie as yet: nobody has asked for its exit status
        pass
    holder.wait()


def test_only_what_certainly_ended_is_gone() -> None:
    boot, namespace, pid, started = this_process().split("/")
    assert not is_gone(this_process())
    assert is_gone(f"{boot}/{namespace}/{pid}/{int(started) - 1}"), "the PID is another process's now"
    for elsewhere in ("", "x", f"other/{namespace}/{pid}/1", f"{boot}/1/{pid}/1", f"{boot}/{namespace}/x/1", "a/b/c/d/e"):
        assert not is_gone(elsewhere)


def test_a_lease_that_moves_on_while_it_is_read_is_not_taken_for_none(
    lease: Any, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B lists the released lease of an earlier run; before B reads it, A takes the next number and removes the old one."""
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


def test_the_answer_to_ones_own_creation_may_be_lost(lease: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Files.create
    monkeypatch.setattr(Files, "create", lambda files, uri, data: real(files, uri, data) and False)
    with lease("run-a") as held:
        held.renew()


def test_a_lease_whose_time_is_over_is_lost_at_once(lease: Any, clock: Clock) -> None:
    held = lease("run-a")
    held.check()
    clock.now += 101
    with pytest.raises(LeaseHeld, match="ran out"):
        held.check()
