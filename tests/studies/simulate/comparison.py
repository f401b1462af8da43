"""Compare the simulation with real runs on one, two and three nodes, given the stage times that each run measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from realrun import NODE_CPUS, Pace, cluster, real_run, sides_px
from simulation import Setup, Simulation, rate
from workload import Times, cut, sizes_mpx

COUNTS = (1, 2, 3)
ITEMS_PER_NODE = 120
ROWS, BATCH = 8, 4

SHRUNK = 0.005
"""Scale of the images' pixels, so that two cores serve all nodes; the distribution stays."""

PACES = {
    "the model": Pace(decode_s=4.0, model_s=0.5, finish_s=12.0),
    "the slots": Pace(decode_s=10.0, model_s=0.05, finish_s=120.0),
}
"""Pace by the bottleneck: one actor per node with two items per second, or slots with about 1.8 s per item."""


class Pair(NamedTuple):
    """A real run and the simulated one, in items per second."""

    bottleneck: str
    nodes: int
    real: float
    simulated: float

    @property
    def off(self) -> float:
        return abs(self.simulated / self.real - 1)


def pixels(items: int) -> np.ndarray:
    """Return the pixels of each image: the squares of whole sides."""
    return sides_px(1e6 * SHRUNK * sizes_mpx(items)) ** 2.0


def simulated(items: int, count: int, pace: Pace) -> float:
    """Simulate from stage times alone, without this machine's disk and without Ray's own work. Return items per second."""
    times = Times(
        fetch_s=(0, 0),
        decode_s=(0, pace.decode_s),
        model_s=(pace.model_s, 0),
        pass_s=0,
        finish_s=(0, pace.finish_s),
        put_s=(0, 0),
    )
    work = cut(pixels(items) / 1e6, ROWS, times, batch=BATCH)
    return rate(Simulation(work, Setup(count, rows_per_part=ROWS, cpus=NODE_CPUS, load_s=5), times).run().finished)


def compare(folder: Path, preset: str) -> Iterator[Pair]:
    """Grow a cluster, and run both ``PACES`` at each size."""
    settings = {"compute.rows_per_block": ROWS, "compute.rows_per_part": ROWS, "compute.batch_size": BATCH}
    with cluster(folder) as nodes:
        for count in COUNTS:
            nodes.grow(count)
            items = count * ITEMS_PER_NODE
            for bottleneck, pace in PACES.items():
                run_folder = folder / f"{count}-{bottleneck.replace(' ', '-')}"
                run = real_run(nodes, run_folder, preset, pixels(items), pace, settings)
                real = rate([(float(when), 1) for when in run.finished])
                yield Pair(bottleneck, count, real, simulated(items, count, run.pace))


def table(pairs: list[Pair]) -> str:
    lines = ["| bottleneck | nodes | real, items/s | simulated | off |", "|---|--:|--:|--:|--:|"]
    for pair in sorted(pairs):
        lines.append(f"| {pair.bottleneck} | {pair.nodes} | {pair.real:.2f} | {pair.simulated:.2f} | {pair.off:.1%} |")
    return "\n".join(lines)
