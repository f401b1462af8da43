"""What the tests here share: the helpers' folder, and the long simulations, made once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent
OUT = FOLDER.parents[1] / "out" / "simulate"

sys.path.append(str(FOLDER))  # tests are no package


@pytest.fixture(scope="session")
def whole() -> Any:
    """The run that all of it is about: ten million items on 64 GPUs, with preemptions, throttling and a long tail."""
    from sweeps import ITEMS, Case, simulate

    return simulate(Case(items=ITEMS))


@pytest.fixture(scope="session")
def growing() -> Any:
    """The same run with 1 to 256 GPUs."""
    from sweeps import more_gpus

    return more_gpus()


@pytest.fixture(scope="session")
def sweeps() -> dict[str, Any]:
    """One setting moved, by its name; the prefixes with twice the GPUs and a driver that keeps up: else nothing asks them."""
    from sweeps import FEWER, GPUS, sweep

    quick = {"driver_s": 0.0005, "gpus": GPUS[-1], "items": 4 * FEWER}
    return {
        "rows_per_block": sweep("rows_per_block", (16, 32, 64, 128, 256, 512, 1024)),
        "rows_per_part": sweep("rows_per_part", (16, 32, 64, 128, 256, 1024, 4096)),
        "block_mib": sweep("block_mib", (16, 32, 64, 128, 256, 512)),
        "prefixes": sweep("prefixes", (1, 2, 16, 512), **quick),
        "partitions": sweep("partitions", (1, 2, 4, 16), **quick),
        "driver_s": sweep("driver_s", (0.00125, 0.0025, 0.005, 0.01)),
        "model_s": sweep("model_s", (0.015, 0.03, 0.06, 0.12)),
        "life_s": sweep("life_s", (0, 86400, 4 * 3600, 3600)),
        "cpus": sweep("cpus", (1, 2, 4, 8)),
    }
