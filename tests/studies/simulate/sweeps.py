"""What is simulated for the tables: the same run with more and more GPUs, and with one setting at a time moved away."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

from simulation import Result, Setup, Simulation
from workload import TIMES, Times, cut, linear, sizes_mpx

ITEMS = 10_000_000
"""Of the run that all of it is about."""

FEWER = 600_000
"""Of a run that stands for it in a sweep, with its settings: long enough to be in a steady state."""

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ITEMS_A_GPU, MOST = 15_000, 1_500_000
"""Of the runs with more and more GPUs: a quarter of an hour of each, or so; of 256 less."""

USUAL = 64
"""GPUs of the run that all of it is about."""

LIFE_S = 4 * 3600.0
"""A spot node's, on average: 16 of 64 are lost in an hour."""

BATCH = 4
GET_S, AT_ONCE = 0.03, 16
"""Of an index part when the run is tidied, so many at once: ``index.PARTS_AT_ONCE``."""

RECORD_BYTES = 10_000 / 3
"""What the driver keeps of a block and a stage: ``flow.BLOCKS`` says 10 KB of a block that goes through three."""


@dataclass(frozen=True)
class Case:
    """One run: what is moved in a sweep."""

    gpus: int = USUAL
    rows_per_block: int = 0
    """0: as the product chooses for ``ITEMS``; so below."""
    rows_per_part: int = 0
    block_mib: int = 0
    prefixes: int = 0
    partitions: int = 1
    life_s: float = LIFE_S
    model_s: float = TIMES["model_s"]["value"][0]
    """Of the network; what is done at an image's size stays."""
    driver_s: float = TIMES["driver_s"]["value"]
    cpus: int = TIMES["node"]["cpus"]
    items: int = FEWER


@dataclass(frozen=True)
class Run:
    """A case and what came of it."""

    case: Case
    result: Result
    ideal: float
    """Items a second if every GPU were always in the model, with full passes, and never lost."""
    seconds_of_all: float
    """What ``ITEMS`` take, start and end included."""

    @property
    def share(self) -> float:
        return self.result.items_per_s / self.ideal

    @property
    def bottleneck(self) -> str:
        return max(self.result.busy, key=lambda name: self.result.busy[name])

    @property
    def twice(self) -> float:
        """Share of the items that went through the model again."""
        return self.result.twice / self.result.items

    @property
    def read_twice(self) -> float:
        """Share of the items that were read and decoded again."""
        return self.result.read_twice / self.result.items

    @property
    def records_gib(self) -> float:
        """The driver's account of all blocks of a run of ``ITEMS``."""
        outputs = 3 * self.result.pieces + self.result.parts
        return outputs * RECORD_BYTES / 2**30 * ITEMS / self.result.items

    @property
    def fill_s(self) -> float:
        """Seconds that a run's beginning and end cost, over the time of its items at full speed."""
        return self.result.seconds - self.result.items / self.result.items_per_s

    def numbers(self) -> dict[str, Any]:
        """For a program."""
        told = {"items_per_s": self.result.items_per_s, "mean_items_per_s": self.result.mean_items_per_s, "ideal": self.ideal}
        return told | {
            "busy": self.result.busy,
            "redone": self.twice,
            "tasks": self.result.tasks,
            "seconds": self.result.seconds,
        }

    @property
    def tidy_s(self) -> float:
        """Reading all index parts of a run of ``ITEMS`` once when it is over."""
        return ITEMS / self.result.items * self.result.parts * GET_S / AT_ONCE


class Defaults(NamedTuple):
    """What the product chooses for a run of ``ITEMS`` on ``USUAL`` GPUs."""

    rows_per_block: int
    rows_per_part: int
    block_mib: int
    prefixes: int = 512
    """256 folders of masks and as many of cutouts: ``storage/layout.py``."""


@functools.cache
def defaults() -> Defaults:
    """Asked of the product itself."""
    from pipeline.config.job import Budget, Compute
    from pipeline.run.graph import block_mib, rows_per_block, rows_per_part

    recipe = SimpleNamespace(frame_px=1024)
    plan: Any = SimpleNamespace(job=SimpleNamespace(compute=Compute(), budget=Budget(), recipe=recipe), todo=ITEMS)
    pool: Any = SimpleNamespace(gpus=1.0, actors=USUAL, most=None, device="cuda")
    return Defaults(rows_per_block(plan, pool), rows_per_part(plan), block_mib(plan))


def settled(case: Case) -> Case:
    """With the product's choices where the case leaves them open."""
    return replace(case, **{name: getattr(case, name) or value for name, value in defaults()._asdict().items()})


def simulate(case: Case) -> Run:
    case = settled(case)
    usual = Times()
    times = replace(usual, model_s=(case.model_s, usual.model_s[1]), driver_s=case.driver_s)
    mpx = sizes_mpx(case.items)
    work = cut(mpx, case.rows_per_block, times, batch=BATCH, block_mib=case.block_mib)
    setup = Setup(
        case.gpus,
        rows_per_part=case.rows_per_part,
        cpus=case.cpus,
        prefixes=case.prefixes,
        partitions=case.partitions,
        life_s=case.life_s,
    )
    result = Simulation(work, setup, times).run()
    ideal = case.gpus / float(linear(times.model_s, mpx).mean() + times.pass_s / BATCH)
    return Run(case, result, ideal, result.seconds + (ITEMS - case.items) / result.items_per_s)


def more_gpus(gpus: Iterable[int] = GPUS, **others: Any) -> list[Run]:
    """The same run with more and more GPUs, in part; see ``ITEMS_A_GPU``."""
    return [simulate(Case(gpus=count, items=min(MOST, ITEMS_A_GPU * count), **others)) for count in gpus]


def moved(setting: str, values: Iterable[float], **others: Any) -> list[Run]:
    """The usual run with one setting moved."""
    return [simulate(Case(**others, **{setting: value})) for value in values]
