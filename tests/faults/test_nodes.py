"""Several machines: what each of them does of a run, and what becomes of it when one goes or comes.

``make cluster-test`` runs them: real Ray nodes on this machine, with GPUs that Ray only believes in, and the fake model, whose
frames take as long as they are told to. What every trial ends with holds here as well: nothing lost, nothing double.
"""

from __future__ import annotations

import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.study, pytest.mark.timeout(300), pytest.mark.parametrize("engine", ["ray"], indirect=True)]

MakeTrial = Callable[..., Any]
ON_GPUS = ["compute.device=cpu", "compute.gpus_per_actor=1"]
"""The GPUs are Ray's to count; the model is on the CPU."""

FRAME_S = 0.25
ROWS = 2
"""Items a block and a pass: what a machine that goes had in hand can be told in blocks."""

IN_HAND = 4
"""Blocks at most that an actor holds: one at work and one waiting for it, and as many that are done and not yet written."""


@pytest.fixture
def spread(on_disk: MakeTrial) -> Callable[..., Any]:
    """``spread(fault)``: a trial whose frames take time."""

    def make(fault: str, frame_s: float = FRAME_S) -> Any:
        return on_disk(fault, faults={"sleep_s": frame_s})

    return make


def settings(cluster: Any, *more: str) -> list[str]:
    small = [f"compute.rows_per_block={ROWS}", f"compute.batch_size={ROWS}"]
    return [f"compute.ray_address={cluster.address}", *small, *ON_GPUS, *more]


def committed(trial: Any) -> int:
    """Rows of the index so far."""
    return sum(pq.read_metadata(path).num_rows for path in Path(trial.place.output).rglob("index/*.parquet"))


def test_work_is_spread_evenly(spread: MakeTrial, machines: Callable[..., Any], trial_module: ModuleType, bars: Any) -> None:
    with spread("three machines") as trial:
        cluster = machines(trial, ["a", "b", "c"], gpus=1)
        trial.settings = settings(cluster)
        run = trial.start()
        assert run.wait(trial_module.RUN_S) == 0, trial.said()
        frames = trial.frames()
        firsts = {frame.pid: frame.time_s for frame in reversed(frames)}
        assert len(firsts) == len({frame.machine for frame in frames}) == 3
        # Processes start one after the other here; who is first does more, which isn't what is asked.
        shares = Counter(frame.pid for frame in frames if frame.time_s >= max(firsts.values()))
        even = shares.total() / 3
        assert even > 8, "the last copy of the model came too late to tell"
        off = max(abs(shares[pid] - even) for pid in firsts) / even
        bars.at_most("an actor's share of the work, off from even", off, 0.25)
        cluster.end()


def test_a_draining_machine_gets_no_new_work(
    spread: MakeTrial, machines: Callable[..., Any], trial_module: ModuleType, bars: Any
) -> None:
    with spread("machine drained", frame_s=0.75) as trial:
        cluster = machines(trial, ["a", "b"], gpus=1)
        trial.settings = settings(cluster)
        run = trial.start()
        trial_module.wait_until(lambda: {frame.machine for frame in trial.frames()} == {"a", "b"}, "both machines", 120)
        cluster.do("drain b")
        before = len(trial.frames())
        assert run.wait(trial_module.RUN_S) == 0, trial.said()
        late = [frame.machine for frame in trial.frames()[before:]]
        assert len(late) > 4 * IN_HAND * ROWS, "too few frames were left to tell"
        bars.at_most("frames of a draining machine, what it had in hand", late.count("b"), IN_HAND * ROWS)
        cluster.end()


def test_a_lost_machine_costs_what_it_had_in_hand(
    spread: MakeTrial, machines: Callable[..., Any], trial_module: ModuleType, bars: Any
) -> None:
    with spread("machine lost", frame_s=0.5) as trial:
        cluster = machines(trial, ["a", "b"], gpus=1)
        trial.settings = settings(cluster)
        run = trial.start()
        trial_module.wait_until(lambda: committed(trial) >= 20, "committed items", 120)  # so every stage is at work
        assert "b" in {frame.machine for frame in trial.frames()}
        cluster.do("remove b")
        if run.wait(trial_module.RUN_S):
            trial.finish()
        names = trial.segmented()
        bars.at_most("frames done twice because of a lost machine", len(names) - len(set(names)), IN_HAND * ROWS)
        cluster.end()


def test_a_machine_that_comes_is_used(
    spread: MakeTrial, machines: Callable[..., Any], trial_module: ModuleType, bars: Any
) -> None:
    with spread("machine added", frame_s=1.0) as trial:  # Ray Data takes half a minute to see what came
        cluster = machines(trial, ["a"], gpus=1)
        trial.settings = settings(cluster, "compute.max_actors=2")
        run = trial.start()
        trial.await_frames(8, run)
        cluster.do("add b")
        assert run.wait(trial_module.RUN_S) == 0, trial.said()
        frames = trial.frames()
        mine = [number for number, frame in enumerate(frames) if frame.machine == "b"]
        assert mine, "the machine that came was never used"
        bars.at_least("share of a machine that came, of what was left then", len(mine) / (len(frames) - mine[0]), 0.3)
        cluster.end()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server on loopback: its address, the folder that it shows, and what it was asked for."""
    asked: list[str] = []
    folder = tmp_path / "served"
    folder.mkdir()

    class Counting(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder, asked
        running.shutdown()


def test_weights_are_fetched_once_a_machine(
    spread: MakeTrial,
    machines: Callable[..., Any],
    trial_module: ModuleType,
    mean_preset: Callable[[Path, str], str],
    server: tuple[str, Path, list[str]],
    tmp_path: Path,
    bars: Any,
) -> None:
    address, folder, asked = server
    with spread("weights for four copies on two machines") as trial:
        trial.preset = mean_preset(folder, address)
        cluster = machines(trial, ["a", "b"], cpus=3, cache=str(tmp_path / "caches"))
        trial.settings = [f"compute.ray_address={cluster.address}", "compute.actors=4"]  # one machine has no room for all
        trial.place.environment["MATTELINE_CACHE"] = str(tmp_path / "caches" / "driver")
        run = trial.start()
        assert run.wait(trial_module.RUN_S) == 0, trial.said()
        assert {path.name for path in (tmp_path / "caches").iterdir()} == {"a", "b", "driver"}
        bars.at_most("times that weights were fetched, by the driver and two machines with four copies", len(asked), 3)
        cluster.end()
