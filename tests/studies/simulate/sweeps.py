"""The simulated runs: the large one, more and more GPUs, and one setting moved at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

from simulation import Result, Setup, Simulation
from workload import TIMES, Times, cut, linear, sizes_mpx

ITEMS = 10_000_000
"""Items of the large run."""

SWEEP_ITEMS = 600_000
"""Items of a run in a sweep, with the large run's settings: long enough for a steady state."""

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ITEMS_PER_GPU, MAX_ITEMS = 15_000, 1_500_000
"""Items of the runs with more and more GPUs: about a quarter of an hour each, less with 256."""

USUAL_GPUS = 64
LIFE_S = 4 * 3600.0
"""Mean seconds that a spot node lives: 16 of 64 are lost per hour."""

BATCH = 4
GET_S, GETS_AT_ONCE = 0.03, 16
"""Seconds per index part when the run reads all of them at its end, and how many it reads at once."""

RECORD_BYTES = 10_000 / 3
"""Driver memory per block and stage: ``block_sizes.BLOCKS`` assumes 10 KB per block, which goes through three stages."""


@dataclass(frozen=True)
class Case:
    """One run. Settings of 0 are as the product chooses them for ``ITEMS``."""

    gpus: int = USUAL_GPUS
    rows_per_block: int = 0
    rows_per_part: int = 0
    block_mib: int = 0
    prefixes: int = 0
    partitions: int = 1
    life_s: float = LIFE_S
    model_s: float = TIMES["model_s"]["value"][0]
    """Seconds of the network per item; the work at an image's size stays."""
    driver_s: float = TIMES["driver_s"]["value"]
    cpus: int = TIMES["node"]["cpus"]
    items: int = SWEEP_ITEMS


@dataclass(frozen=True)
class Run:
    """A case and its outcome."""

    case: Case
    result: Result
    ideal: float
    """Items per second if every GPU were always in the model, with full batches, and never lost."""
    total_s: float
    """Seconds of ``ITEMS``, with start and end."""

    @property
    def share(self) -> float:
        """Speed ÷ the ideal."""
        return self.result.items_per_s / self.ideal

    @property
    def resegmented(self) -> float:
        """Share of the items that went through the model again."""
        return self.result.resegmented / self.result.items

    @property
    def reread(self) -> float:
        """Share of the items that were read and decoded again."""
        return self.result.reread / self.result.items

    @property
    def records_gib(self) -> float:
        """Driver memory for the records of all blocks, in a run of ``ITEMS``."""
        return (3 * self.result.pieces + self.result.parts) * RECORD_BYTES / 2**30 * ITEMS / self.result.items

    @property
    def read_parts_s(self) -> float:
        """Seconds to read all index parts once, in a run of ``ITEMS``."""
        return ITEMS / self.result.items * self.result.parts * GET_S / GETS_AT_ONCE


class Defaults(NamedTuple):
    """The product's choices for ``ITEMS`` on ``USUAL_GPUS``."""

    rows_per_block: int
    rows_per_part: int
    block_mib: int
    prefixes: int = 512
    """256 folders of masks and 256 of cutouts; see ``output/layout.py``."""


@functools.cache
def defaults() -> Defaults:
    """Ask the product for its choices."""
    from pipeline.config.job import Budget, Compute
    from pipeline.run.block_sizes import block_mib, rows_per_block, rows_per_part

    recipe = SimpleNamespace(frame_px=1024)
    plan: Any = SimpleNamespace(job=SimpleNamespace(compute=Compute(), budget=Budget(), recipe=recipe), todo=ITEMS)
    pool: Any = SimpleNamespace(gpus=1.0, actors=USUAL_GPUS, max_actors=None, device="cuda")
    return Defaults(rows_per_block(plan, pool), rows_per_part(plan), block_mib(plan))


def simulate(case: Case) -> Run:
    case = replace(case, **{name: getattr(case, name) or value for name, value in defaults()._asdict().items()})
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
    """Simulate a part of the large run with more and more GPUs."""
    return [simulate(Case(gpus=count, items=min(MAX_ITEMS, ITEMS_PER_GPU * count), **others)) for count in gpus]


@dataclass(frozen=True)
class Sweep:
    """A setting or an assumption, its values, and what else differs from the usual case."""

    setting: str
    title: str
    values: Sequence[float]
    columns: Sequence[str]
    """Names of ``sweep_tables.COLUMNS``."""
    others: dict[str, Any] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        return [simulate(Case(**self.others, **{self.setting: value})) for value in self.values]


SPEED = ("items/s", "of the ideal")
CROWDED: dict[str, Any] = {"gpus": GPUS[-1], "driver_s": 0.0005, "block_mib": 256, "items": 4_000_000}
"""Only with so many GPUs, a driver that is several times as fast and large pieces is the store a limit."""

SWEEPS = (
    # Settings of the product: a bar holds each default near the best value.
    Sweep(
        "rows_per_block",
        "Items per block",
        (16, 64, 128, 256, 512, 1024),
        [*SPEED, "driver busy", "tasks per 1,000 items", "reread", "in flight", "driver's records, GiB"],
    ),
    Sweep(
        "rows_per_part",
        "Items per index part",
        (16, 32, 64, 128, 256, 1024),
        [*SPEED, "driver busy", "tasks per 1,000 items", "reading all parts, s"],
    ),
    Sweep(
        "block_mib",
        "Decoded MiB per piece, which the product chooses by the number of items",
        (16, 32, 64, 128, 256, 512),
        [*SPEED, "driver busy", "tasks per 1,000 items", "reread", "driver's records, GiB"],
    ),
    Sweep(
        "prefixes",
        f"Prefixes of the objects' names in a fresh bucket, {GPUS[-1]} GPUs, a driver with 0.5 ms per task",
        (1, 512),
        ["mean items/s", "GPUs busy", "PUTs busy", "bottleneck"],
        CROWDED,
    ),
    # Assumptions: the table shows how much the result depends on each.
    Sweep(
        "partitions",
        f"Partitions of the bucket at the start, {GPUS[-1]} GPUs, a driver with 0.5 ms per task",
        (2, 4),
        ["mean items/s", "GPUs busy", "PUTs busy", "bottleneck"],
        CROWDED,
    ),
    Sweep(
        "driver_s",
        "Seconds of the driver per task",
        (0.0016, 0.0033, 0.0066, 0.0132),
        [*SPEED, "GPUs busy", "driver busy", "bottleneck"],
    ),
    Sweep(
        "model_s",
        "Seconds of the network per item",
        (0.015, 0.03, 0.06, 0.12),
        [*SPEED, "GPUs busy", "PUTs busy", "driver busy", "bottleneck", "hours", "$"],
    ),
    Sweep("cpus", "CPUs per node", (1, 2, 3, 4, 8), [*SPEED, "GPUs busy", "CPUs busy", "bottleneck"]),
    Sweep(
        "life_s",
        "Mean seconds that a spot node lives (0: for ever)",
        (0, 14400, 3600, 900),
        [*SPEED, "resegmented", "reread"],
    ),
)
