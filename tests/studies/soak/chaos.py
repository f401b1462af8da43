"""Faults for long runs: which come, and when, follows from a seed. The command is started again whenever it has ended."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from proxy import Proxy, Rule
from pyarrow import fs
from trial import Trial, title, workers
from watch import Watch

from pipeline.errors import ErrorBudgetExceeded, LeaseHeld, Stopped, StorageError
from pipeline.output.lease import GRACE_S, TTL_S

RUN_S = 3 * 3600.0
LAST_RUNS = 3
"""Runs after the last fault: it may have ended one, and the next one repeats failed items."""

WAIT_S = 120.0
"""How long a run may take to start its model, to take over a lease, or to notice that it has lost one."""

KILLED = -signal.SIGKILL
NO_NODE = {1, Stopped.exit_code}
"""Without its raylet, Ray ends the driver's process with 1. While Ray starts, it raises an exception instead."""

NO_STORE = {StorageError.exit_code, ErrorBudgetExceeded.exit_code}

TROUBLE = {
    "store throttles": [Rule("slow_down", probability=0.3), Rule("error", probability=0.1)],
    "store breaks connections": [Rule(kind, probability=0.1) for kind in ("reset", "lost_answer", "truncate")],
    "store is slow": [Rule("slow", count=2, seconds=35.0), Rule("slow", probability=0.1, seconds=1.5)],
    "store refuses": [Rule("forbidden")],
}


class Fault(NamedTuple):
    """A fault, and when it is due."""

    kind: str
    frames: int
    """Frames that went through the model before it."""
    delay_s: float
    """Seconds after that."""


class Event(NamedTuple):
    """A fault, or the start or the end of a run."""

    seconds: float
    kind: str
    detail: str = ""


def schedule(seed: int, items: int, every: Mapping[str, int], delay_s: float) -> list[Fault]:
    """Return the faults of a run in order: one of each kind per so many items as ``every`` says, and at least one."""
    dice = random.Random(seed)
    kinds = [kind for kind, per in every.items() for _ in range(max(1, items // per))]
    faults = [Fault(kind, dice.randrange(items * 3 // 4), dice.uniform(0, delay_s)) for kind in kinds]
    return sorted(faults, key=lambda fault: fault.frames)


class Chaos:
    """The runs of one output, and what happens to them.

    Args:
        trial: Starts the command.
        seed: Of the choice among processes, and of durations.
        disk: Reads the output without the package's own code.
        store: Proxy and server of the store, if the output is in one.
        full: While this file exists, the disk is full.
    """

    def __init__(
        self, trial: Trial, seed: int, disk: fs.FileSystem, *, store: tuple[Proxy, Any] | None = None, full: Path
    ) -> None:
        self.trial, self.disk, self.store, self.full = trial, disk, store, full
        self.watch = Watch([], self.frames)
        self.began, self.dice = time.monotonic(), random.Random(seed)
        self.events: list[Event] = []
        self.faults: list[str] = []
        """The kinds that happened."""
        self.missed: list[str] = []
        """The kinds whose run was over before."""
        self.unexplained: list[str] = []
        """Runs that ended with an exit code that no fault explains."""
        self._may_end: set[int] = set()
        self._counting, self._frames, self._counted = threading.Lock(), 0, 0

    def frames(self) -> int:
        """Return how many frames went through the model so far."""
        with self._counting:
            if self.trial.trace.exists():
                with self.trial.trace.open("rb") as trace:
                    trace.seek(self._counted)
                    new = trace.read()
                self._frames, self._counted = self._frames + new.count(b"\n"), self._counted + len(new)
            return self._frames

    def index(self) -> pa.Table:
        """Return ids and status of all rows of the index."""
        return ds.dataset(f"{self._output}/index", filesystem=self.disk, format="parquet").to_table(["item_id", "status"])

    def files(self, folder: str) -> list[str]:
        """Return the paths below a folder of the output."""
        chosen = fs.FileSelector(f"{self._output}/{folder}", recursive=True, allow_not_found=True)
        return [info.path for info in self.disk.get_file_info(chosen) if info.is_file]

    @property
    def _output(self) -> str:
        return str(self.trial.place.output.removeprefix("s3://"))

    def suffer(self, faults: Iterable[Fault]) -> None:
        """Run the command until it ends well and no item has failed, with faults meanwhile."""
        before = self.frames()
        self._start()
        for fault in faults:
            if not self._reach(before + fault.frames, fault.delay_s):
                self.missed.append(fault.kind)
                continue
            self.faults.append(fault.kind)
            self._note(fault.kind)
            DEEDS[fault.kind](self, fault.kind)
        for _ in range(LAST_RUNS):
            if self._end() == 0 and not pc.any(pc.equal(self.index()["status"], "failed")).as_py():
                return
            self._start()
        pytest.exit(f"no end after {self.trial.runs} runs; the last said {self.trial.said()[-1500:]}", 1)

    def _note(self, kind: str, detail: str = "") -> None:
        self.events.append(Event(round(time.monotonic() - self.began, 1), kind, detail))

    def _start(self) -> None:
        self._may_end = {0}
        self.run = self.trial.start()
        self.watch.follow(self.run.pid)
        self._note("start", f"run {self.trial.runs}")

    def _end(self) -> int:
        """Wait for the end of the run, and return its exit code."""
        return self._judge(self.run.wait(RUN_S), self.trial.runs)

    def _judge(self, code: int, number: int) -> int:
        self._note("end", f"run {number}: {code}")
        if code not in self._may_end:
            self.unexplained.append(f"run {number} ended with {code}, at last it said {self.trial.said(number)[-300:]!r}")
        return code

    def _reach(self, frames: int, delay_s: float) -> bool:
        """Wait until a fault is due, and return whether a run is at work then. A run that ends before is started again."""
        due = None
        while due is None or time.monotonic() < due:
            if due is None and self.frames() >= frames:
                due = time.monotonic() + delay_s
            if self.run.poll() is not None:
                if self._end() == 0:
                    return False
                self._start()
            time.sleep(0.05)
        return True

    def _kill_driver(self, _: str) -> None:
        self._may_end.add(KILLED)
        self.run.kill()
        self._end()
        self._start()

    def _stop_driver(self, _: str) -> None:
        self._may_end.add(Stopped.exit_code)
        self.run.send_signal(signal.SIGTERM)
        self._end()
        self._start()

    def _pause_driver(self, _: str) -> None:
        """Stop a driver for so long that another one takes its lease over, and let it go on beside that one."""
        paused, number = self.run, self.trial.runs
        paused.send_signal(signal.SIGSTOP)
        time.sleep(TTL_S + GRACE_S + 5)
        leases = self.files("_matteline/lease")
        self._start()
        self._await(lambda: self.files("_matteline/lease") != leases, "the paused run's lease to be taken over")
        paused.send_signal(signal.SIGCONT)
        self._may_end.add(LeaseHeld.exit_code)
        self._judge(paused.wait(WAIT_S), number)
        self._may_end.discard(LeaseHeld.exit_code)

    def _kill_model(self, _: str) -> None:
        models: list[psutil.Process] = []
        self._await(lambda: models.extend(workers(self.run, "SegmentBatch")) or models, "a process with the model")
        self._kill_one(models)

    def _kill_worker(self, _: str) -> None:
        found: list[psutil.Process] = []
        self._await(lambda: found.extend(workers(self.run, "")) or found, "a worker process")
        spared = ("SegmentBatch", "Agent")  # the model has its own fault, and Ray's agents end their node
        self._kill_one([one for one in found if not any(name in title(one) for name in spared)] or found)

    def _kill_node(self, _: str) -> None:
        """Kill Ray's raylet, without which nothing works on this machine."""
        self._may_end |= NO_NODE
        found: list[psutil.Process] = []
        self._await(lambda: found.extend(self._raylets()) or found, "a raylet")
        self._kill_one(found)
        self._await_end(WAIT_S)

    def _raylets(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.run.pid).children(recursive=True)
            return [process for process in family if Path(title(process).split(" ")[0]).name == "raylet"]
        return []

    def _kill_one(self, processes: list[psutil.Process]) -> None:
        if processes:
            process = self.dice.choice(processes)
            self._note("killed", title(process).split(" ")[0])
            process.kill()

    def _await(self, true: Any, what: str) -> None:
        """Wait for something that a run does, unless the run ends before."""
        deadline = time.monotonic() + WAIT_S
        while not true() and self.run.poll() is None:
            if time.monotonic() > deadline:
                pytest.exit(f"waited {WAIT_S:.0f} s for {what}: {self.trial.said()[-1500:]}", 1)
            time.sleep(0.1)

    def _trouble_store(self, kind: str) -> None:
        assert self.store is not None
        if kind == "store refuses":
            self._may_end |= NO_STORE
        rules = [Rule(rule.kind, rule.match, rule.probability, rule.count, rule.seconds) for rule in TROUBLE[kind]]
        with self.store[0].suffering(*rules):
            self._await_end(self.dice.uniform(10, 30))

    def _kill_store(self, _: str) -> None:
        assert self.store is not None
        self.store[1].stop()
        time.sleep(5)
        self.store[1].start()

    def _fill_disk(self, _: str) -> None:
        self._may_end |= NO_STORE
        self.full.touch()
        self._await_end(self.dice.uniform(1, 5))
        self.full.unlink()

    def _await_end(self, seconds: float) -> None:
        """Wait for so long, or until the run has ended."""
        try:
            self.run.wait(seconds)
        except subprocess.TimeoutExpired:
            return


DEEDS = {
    "driver killed": Chaos._kill_driver,
    "driver stopped": Chaos._stop_driver,
    "driver paused": Chaos._pause_driver,
    "model's process killed": Chaos._kill_model,
    "worker killed": Chaos._kill_worker,
    **dict.fromkeys(TROUBLE, Chaos._trouble_store),
    "raylet killed": Chaos._kill_node,
    "store killed": Chaos._kill_store,
    "disk full": Chaos._fill_disk,
}
"""What the kinds do."""
