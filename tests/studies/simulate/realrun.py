"""Runs through the real command line on one, two or three Ray nodes of this machine, whose stages sleep for declared times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image
from simulation import EDGE

HERE = Path(__file__).resolve().parent
NODE_CPUS = 6
"""Slots of a node, by Ray's bookkeeping; beside them a GPU that isn't there, for one copy of the model."""

RUN_S = 300
Floats = npt.NDArray[np.float64]


class Pace(NamedTuple):
    """Seconds of an item."""

    decode_s: float
    """For every million pixels."""
    model_s: float
    finish_s: float
    """For every million pixels."""


class Seen(NamedTuple):
    """What a run did."""

    pace: Pace
    """As its index tells: the sleeps, and what the machine's own work added to them."""

    finished: Floats
    """When each item was, in seconds."""
    seconds: float
    """Without the first and the last ``EDGE`` of the items; so are those that follow."""
    driver_cpu_s: float
    """Processor seconds of the driver's busiest thread."""
    driver_all_cpu_s: float
    """Of all its threads."""
    tasks: int
    """That Ray was asked for."""


class Nodes:
    """A head that runs nothing, and nodes that join it one by one."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.pace = folder / "pace.json"
        self.env = environment(self.pace)
        with only(self.env):
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.count = 0

    def grow(self, count: int) -> None:
        """To so many nodes."""
        with only(self.env):
            for _ in range(count - self.count):
                self.cluster.add_node(num_cpus=NODE_CPUS, num_gpus=1, object_store_memory=200 * 2**20)
        self.count = count


@contextmanager
def only(variables: dict[str, str]) -> Iterator[None]:
    """This process' environment for a while: a node's workers inherit it."""
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    found = Nodes(folder)
    try:
        yield found
    finally:
        found.cluster.shutdown()


def environment(pace: Path) -> dict[str, str]:
    """Nobody else's store or cluster, and the sleeps."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
    paths = os.pathsep.join([str(HERE / "inject"), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PACE": str(pace), "PYTHONPATH": paths}
    token = {key: value for key, value in os.environ.items() if key.startswith("RAY_AUTH_")}
    return variables | token | more


def sides_px(pixels: Floats) -> npt.NDArray[np.int64]:
    """Of square images with about so many pixels."""
    return np.maximum(8, np.rint(np.sqrt(pixels))).astype(np.int64)


def write_manifest(folder: Path, pixels: Floats) -> Path:
    """An image of about so many pixels for every item: flat, so that it costs next to nothing beside the sleeps."""
    (folder / "photos").mkdir(parents=True)
    places = []
    for number, side in enumerate(sides_px(pixels).tolist()):
        place = f"photos/{number:05}.png"
        Image.new("RGB", (side, side), (number % 251, 90, 40)).save(folder / place)
        places.append(place)
    table = {"item_id": [f"item-{number:05}" for number in range(len(pixels))], "image_uri": places}
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def real_run(found: Nodes, folder: Path, preset: str, pixels: Floats, pace: Pace, settings: dict[str, Any]) -> Seen:
    """One run of so many items, over all nodes there are."""
    manifest, output = write_manifest(folder, pixels), folder / "out"
    found.pace.write_text(json.dumps(pace._asdict()), encoding="utf-8")
    chosen = settings | {
        "compute.ray_address": found.cluster.address,
        "compute.actors": found.count,
        "compute.gpus_per_actor": 1,
        "compute.device": "cpu",
        "compute.threads_per_actor": 1,
    }
    command = [
        *(sys.executable, "-m", "jobs.main", "run", "-m", str(manifest), "-o", str(output), "-p", preset),
        *(f"--set={key}={value}" for key, value in chosen.items()),
    ]
    log = folder / "run.log"
    with (
        log.open("wb") as words,
        subprocess.Popen(command, stdout=words, stderr=words, env=found.env, cwd=HERE.parents[2]) as run,
    ):
        samples = watch(run)
    if run.returncode:
        raise RuntimeError(f"the run ended with {run.returncode}: {log.read_text(errors='replace')[-1500:]}")
    index = ds.dataset(list(output.glob("*/index/*.parquet")), format="parquet").to_table(
        ["item_id", "finished_at", "status", "seconds"]
    )
    assert set(index["status"].to_pylist()) <= {"ok", "review"}
    assert len(set(index["item_id"].to_pylist())) == len(pixels)
    finished = np.sort(index["finished_at"].cast(pa.int64()).to_numpy()) / 1e3
    start, end = np.quantile(finished, (EDGE, 1 - EDGE))
    blocks = -(-len(pixels) // settings["compute.rows_per_block"])
    parts = -(-len(pixels) // settings["compute.rows_per_part"])
    tasks = round((1 - 2 * EDGE) * (4 * blocks + parts))
    return Seen(measured(index, pixels), finished, float(end - start), *spent(samples, start, end), tasks)


def measured(index: pa.Table, pixels: Floats) -> Pace:
    """The stage times in an index, as the simulation takes them."""
    stages = index["seconds"].combine_chunks()
    means = {
        name: float(np.mean(stages.field(name).to_numpy(zero_copy_only=False))) for name in ("decode", "segment", "finish")
    }
    mpx = float(np.mean(pixels)) / 1e6
    return Pace(means["decode"] / mpx, means["segment"], means["finish"] / mpx)


def watch(run: subprocess.Popen[bytes]) -> list[tuple[float, dict[int, float]]]:
    """The driver's processor seconds by thread, again and again until it ends, with the time."""
    start, samples = time.time(), []
    while run.poll() is None:
        if time.time() - start > RUN_S:
            run.terminate()
        try:
            threads = {thread.id: thread.user_time + thread.system_time for thread in psutil.Process(run.pid).threads()}
        except psutil.Error:
            break
        samples.append((time.time(), threads))
        time.sleep(0.25)
    run.wait()
    return samples


def spent(samples: list[tuple[float, dict[int, float]]], start: float, end: float) -> tuple[float, float]:
    """Processor seconds between two times: of the busiest thread, and of all."""
    before, after = (next(threads for when, threads in samples if when >= moment) for moment in (start, end))
    used = [seconds - before.get(thread, 0.0) for thread, seconds in after.items()]
    return max(used), sum(used)
