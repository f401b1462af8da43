"""The simulation beside real runs on one, two and three nodes here, driven by the stage times that each run measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from realrun import NODE_CPUS, Pace, Seen, nodes, real_run, sides_px
from simulation import Setup, Simulation, rate
from workload import Times, cut, sizes_mpx

COUNTS = (1, 2, 3)
ITEMS_A_NODE = 120
ROWS, BATCH = 8, 4

SHRUNK = 0.005
"""The images are so much smaller than the work's, so that two cores do for all nodes; the tail stays."""

PACES = {
    "the model": Pace(decode_s=4.0, model_s=0.5, finish_s=12.0),
    "the slots": Pace(decode_s=10.0, model_s=0.05, finish_s=120.0),
}
"""By what bounds the run: a copy of the model a node, with two items a second; slots, with about 1.8 s an item."""


class Pair(NamedTuple):
    """A real run and the simulated one, in items a second."""

    bound: str
    nodes: int
    real: float
    simulated: float

    @property
    def off(self) -> float:
        return abs(self.simulated / self.real - 1)


def pixels(items: int) -> np.ndarray:
    """Of each image as it is written: the squares of whole sides."""
    return sides_px(1e6 * SHRUNK * sizes_mpx(items)) ** 2.0


def simulated(items: int, count: int, pace: Pace) -> float:
    """Items a second, by stage times alone; reading and writing this machine's disk, and Ray's own work on it, are left out."""
    times = Times(
        fetch_s=(0, 0),
        decode_s=(0, pace.decode_s),
        model_s=(pace.model_s, 0),
        pass_s=0,
        finish_s=(0, pace.finish_s),
        put_s=(0, 0),
    )
    work = cut(pixels(items) / 1e6, ROWS, times, batch=BATCH)
    result = Simulation(work, Setup(count, rows_per_part=ROWS, cpus=NODE_CPUS, load_s=5), times).run()
    return rate(result.finished)


def real(seen: Seen) -> float:
    """Items a second, from block to block as in the simulation: a block's rows are stamped within a moment of each other."""
    return rate([(float(when), 1) for when in seen.finished])


def compare(folder: Path, preset: str) -> Iterator[Pair]:
    """A cluster that grows, and on it one run for each of ``PACES``."""
    settings = {"compute.rows_per_block": ROWS, "compute.rows_per_part": ROWS, "compute.batch_size": BATCH}
    with nodes(folder) as found:
        for count in COUNTS:
            found.grow(count)
            items = count * ITEMS_A_NODE
            for bound, pace in PACES.items():
                place = folder / f"{count}-{bound.replace(' ', '-')}"
                seen = real_run(found, place, preset, pixels(items), pace, settings | {"recipe.outputs": "[mask]"})
                yield Pair(bound, count, real(seen), simulated(items, count, seen.pace))


def table(pairs: list[Pair]) -> str:
    lines = ["| what bounds it | nodes | real, items/s | simulated | off |", "|---|--:|--:|--:|--:|"]
    for pair in sorted(pairs):
        lines.append(f"| {pair.bound} | {pair.nodes} | {pair.real:.2f} | {pair.simulated:.2f} | {pair.off:.1%} |")
    return "\n".join(lines)
