"""Run the command line on one, two or three Ray nodes of this machine, with stages that sleep for declared times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
NODE_CPUS = 6
"""Slots per node, as Ray counts them; each node also has a GPU on paper, for one actor."""

RUN_S = 300
Floats = npt.NDArray[np.float64]


class Pace(NamedTuple):
    """Seconds per item."""

    decode_s: float
    """Per megapixel."""
    model_s: float
    finish_s: float
    """Per megapixel."""


class RealRun(NamedTuple):
    """The outcome of a run."""

    pace: Pace
    """Stage times from the index: the sleeps plus the machine's own work."""
    finished: Floats
    """Time at which each item was finished, in seconds, sorted."""


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
        """Add nodes until there are ``count``."""
        with only(self.env):
            for _ in range(count - self.count):
                self.cluster.add_node(num_cpus=NODE_CPUS, num_gpus=1, object_store_memory=200 * 2**20)
        self.count = count


@contextmanager
def only(variables: dict[str, str]) -> Iterator[None]:
    """Replace this process's environment for a while; a node's workers inherit it."""
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def cluster(folder: Path) -> Iterator[Nodes]:
    """Start a cluster without nodes, and shut it down."""
    nodes = Nodes(folder)
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


def environment(pace: Path) -> dict[str, str]:
    """Return variables without credentials and other clusters, that put the sleeps of ``inject`` into every process."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
    paths = os.pathsep.join([str(HERE / "inject"), *filter(None, [os.environ.get("PYTHONPATH")])])
    more = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PACE": str(pace), "PYTHONPATH": paths}
    token = {key: value for key, value in os.environ.items() if key.startswith("RAY_AUTH_")}
    return variables | token | more


def sides_px(pixels: Floats) -> npt.NDArray[np.int64]:
    """Return the sides of square images with about so many pixels."""
    return np.maximum(8, np.rint(np.sqrt(pixels))).astype(np.int64)


def write_manifest(folder: Path, pixels: Floats) -> Path:
    """Write a flat image per item, which costs next to nothing beside the sleeps."""
    (folder / "photos").mkdir(parents=True)
    uris = [f"photos/{number:05}.png" for number in range(len(pixels))]
    for number, side in enumerate(sides_px(pixels).tolist()):
        Image.new("RGB", (side, side), (number % 251, 90, 40)).save(folder / uris[number])
    table = {"item_id": [f"item-{number:05}" for number in range(len(pixels))], "image_uri": uris}
    pq.write_table(pa.table(table), folder / "manifest.parquet")
    return folder / "manifest.parquet"


def real_run(
    nodes: Nodes,
    folder: Path,
    preset: str,
    pixels: Floats,
    pace: Pace,
    settings: dict[str, Any],
    watch: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> RealRun:
    """Run one job over all nodes.

    Args:
        nodes: The cluster.
        folder: A new folder for manifest, output and log.
        preset: A preset of the fake model.
        pixels: Pixels of each item's image.
        pace: Seconds that the stages sleep.
        settings: Settings of the job.
        watch: Called with the process; it returns before the process ends, or when it has ended.
    """
    manifest, output = write_manifest(folder, pixels), folder / "out"
    nodes.pace.write_text(json.dumps(pace._asdict()), encoding="utf-8")
    chosen = settings | {
        "recipe.outputs": "[mask]",
        "compute.ray_address": nodes.cluster.address,
        "compute.actors": nodes.count,
        "compute.gpus_per_actor": 1,
        "compute.device": "cpu",
        "compute.threads_per_actor": 1,
    }
    command = [
        *(sys.executable, "-m", "jobs.main", "run", "-m", str(manifest), "-o", str(output), "-p", preset),
        *(f"--set={key}={value}" for key, value in chosen.items()),
    ]
    log = folder / "run.log"
    with log.open("wb") as words, subprocess.Popen(command, stdout=words, stderr=words, env=nodes.env, cwd=ROOT) as run:
        try:
            watch(run)
            run.wait(RUN_S)
        finally:
            run.terminate()
    if run.returncode:
        raise RuntimeError(f"the run failed with exit code {run.returncode}: {log.read_text(errors='replace')[-1500:]}")
    columns = ["item_id", "finished_at", "status", "seconds"]
    index = ds.dataset(list(output.glob("index/*.parquet")), format="parquet").to_table(columns)
    assert set(index["status"].to_pylist()) <= {"ok", "review"}
    assert len(set(index["item_id"].to_pylist())) == len(pixels)
    return RealRun(measured_pace(index, pixels), np.sort(index["finished_at"].cast(pa.int64()).to_numpy()) / 1e3)


def measured_pace(index: pa.Table, pixels: Floats) -> Pace:
    """Return the mean stage times of an index."""
    stages = index["seconds"].combine_chunks()
    decode_s, model_s, finish_s = (
        float(np.mean(stages.field(name).to_numpy(zero_copy_only=False))) for name in ("decode", "segment", "finish")
    )
    mpx = float(np.mean(pixels)) / 1e6
    return Pace(decode_s / mpx, model_s, finish_s / mpx)
