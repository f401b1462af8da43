"""What the defaults are asked: each is moved by itself, and the columns that tell why it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps import GPUS, Run, defaults, moved
from tables import BUSY, DRIVER, SPEED, STOP, TIDY, WHOLE, Column, of_case, table

MEAN: Column = ("items/s, all in all", lambda run: f"{run.result.mean_items_per_s:,.0f}")
AGAIN: Column = ("read again", lambda run: f"{run.read_twice:.2%}")
TASKS: Column = ("tasks a 1,000 items", lambda run: f"{1e3 * run.result.tasks / run.result.items:.0f}")

CROWD = {"gpus": GPUS[-1], "driver_s": 0.0005, "block_mib": 256, "items": 4_000_000}
"""Only with so many GPUs, a driver ten times as fast and large pieces does the store limit anything."""


@dataclass(frozen=True)
class Question:
    """A setting, the values it is given, and what else is other than usual."""

    setting: str
    title: str
    values: Sequence[float]
    columns: Sequence[Column]
    others: dict[str, Any] = field(default_factory=dict)


QUESTIONS = (
    Question(
        "rows_per_block",
        "Items a block",
        (16, 64, 128, 256, 512, 1024),
        [*SPEED, BUSY[3], TASKS, AGAIN, STOP, DRIVER],
    ),
    Question("rows_per_part", "Items an index part", (16, 32, 64, 128, 256, 1024), [*SPEED, BUSY[3], TASKS, STOP, TIDY]),
    Question(
        "block_mib",
        "MiB of pixels a piece (compute.block_mib)",
        (16, 32, 64, 128, 256, 512),
        [*SPEED, BUSY[3], TASKS, AGAIN, DRIVER],
    ),
    Question(
        "prefixes",
        f"Folders of objects, a fresh bucket, {GPUS[-1]} GPUs, a driver with 0.5 ms a task",
        (1, 512),
        [MEAN, BUSY[0], BUSY[2], WHOLE[0]],
        CROWD,
    ),
    Question(
        "partitions",
        f"Partitions that the bucket has from the start, {GPUS[-1]} GPUs, a driver with 0.5 ms a task",
        (2, 4),
        [MEAN, BUSY[0], BUSY[2], WHOLE[0]],
        CROWD,
    ),
    Question("driver_s", "Seconds of the driver a task", (0.0016, 0.0033, 0.0066, 0.0132), [*SPEED, *BUSY, WHOLE[0]]),
    Question("model_s", "Seconds of the network an item", (0.015, 0.03, 0.06, 0.12), [*SPEED, *BUSY, *WHOLE]),
    Question("cpus", "CPUs a node", (1, 2, 3, 4, 8), [*SPEED, *BUSY[:2], WHOLE[0]], {"block_mib": 256}),
    Question(
        "life_s",
        "Seconds that a spot node lives, on average (0: for ever)",
        (0, 14400, 3600, 900),
        [*SPEED, WHOLE[1], AGAIN],
        {"block_mib": 256},
    ),
)


def ask(question: Question) -> list[Run]:
    """A run for each value."""
    return moved(question.setting, question.values, **question.others)


def answer(question: Question, runs: Sequence[Run]) -> str:
    """A table; the product's default is bold."""
    default = getattr(defaults(), question.setting, None)
    return table(of_case(question.setting), question.columns, runs, default)
