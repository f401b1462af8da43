"""The simulator loses nothing, exceeds no resource, is reproducible, and agrees with closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from resources import Store, TokenBucket
from simulation import Setup, Simulation, Stage, max_slots, rate
from workload import Times, cut, sizes_mpx

MODEL_ONLY = Times(fetch_s=(0, 0), decode_s=(0, 0), model_s=(0.1, 0), pass_s=0, finish_s=(0, 0), put_s=(0, 0), driver_s=0)


def run(items: int = 20_000, times: Times | None = None, rows: int = 64, **setup: Any) -> tuple[Simulation, float]:
    """Return a finished run, and the ideal speed of its GPUs in items per second."""
    times = times or Times()
    work = cut(sizes_mpx(items), rows, times, batch=4)
    simulation = Simulation(work, Setup(**{"gpus": 8} | setup), times)
    simulation.run()
    return simulation, simulation.setup.gpus * items / sum(work.model_s)


@pytest.mark.parametrize("life_s", (0, 300, 60))
def test_every_item_is_committed_once(life_s: float) -> None:
    simulation, _ = run(life_s=life_s, replace_s=30, load_s=10)
    assert set(simulation.stage) == {Stage.COMMITTED}
    assert sum(count for _, count in simulation.result.commits) == 20_000
    assert bool(simulation.result.losses) == bool(life_s)
    assert bool(simulation.result.resegmented) == bool(life_s)


def test_lost_nodes_cost_time() -> None:
    seconds = [run(life_s=life_s, replace_s=30, load_s=10)[0].result.seconds for life_s in (0, 300, 60)]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("gpus", (1, 3, 16))
@pytest.mark.parametrize("driver_s", (0, 0.02))
def test_no_run_is_faster_than_its_slowest_resource(gpus: int, driver_s: float) -> None:
    simulation, ideal = run(times=replace(Times(), driver_s=driver_s), gpus=gpus)
    result = simulation.result
    assert all(0 <= share <= 1 for share in result.busy.values())
    assert result.items / result.seconds <= ideal
    if driver_s:
        assert result.items / result.seconds <= result.items / (result.tasks * driver_s) + 1e-9


def test_one_gpu_with_equal_images_agrees_with_the_closed_form() -> None:
    work = cut(np.full(6400, 1.0), 64, MODEL_ONLY, batch=4)
    result = Simulation(work, Setup(1, load_s=7, partitions=512), MODEL_ONLY).run()
    assert result.seconds == pytest.approx(7 + 6400 * 0.1)
    assert result.items_per_s == pytest.approx(10)
    assert result.parts == 100


def test_slots_as_the_bottleneck_agree_with_the_closed_form() -> None:
    times = replace(MODEL_ONLY, model_s=(0.001, 0), finish_s=(0.4, 0), decode_s=(0.01, 0))
    work = cut(np.full(8800, 1.0), 10, times, batch=4)
    result = Simulation(work, Setup(1, cpus=64, load_s=0, partitions=512), times).run()
    assert max_slots(64) == 44
    assert result.seconds == pytest.approx(8800 * 0.4 / 44, rel=0.03)


def test_a_stage_never_gets_all_slots() -> None:
    slots = [max_slots(cpus) for cpus in range(1, 600)]
    assert slots == sorted(slots)
    assert slots[0] == 1
    assert all(most < cpus for cpus, most in enumerate(slots[1:], 2))
    assert slots[-1] == pytest.approx(0.7 * 599, abs=2)


def test_the_same_seed_gives_the_same_run() -> None:
    first, second, other = (run(seed=seed, life_s=200, replace_s=60)[0].result for seed in (1, 1, 2))
    assert first.commits == second.commits
    assert first.commits != other.commits


def test_a_last_part_that_is_not_full_is_committed() -> None:
    simulation, _ = run(items=1001, rows_per_part=300, gpus=1)
    assert sum(count for _, count in simulation.result.commits) == 1001


def test_pieces_hold_every_item_once_and_are_no_larger_than_a_block_may_be() -> None:
    mpx = sizes_mpx(5000, seed=3)
    work = cut(mpx, 64, Times(), batch=4, block_mib=64)
    assert sum(work.rows) == 5000
    assert len(work.first) == math.ceil(5000 / 64) + 1 and work.first[-1] == len(work.rows)
    for block in range(len(work.first) - 1):
        assert sum(work.rows[work.first[block] : work.first[block + 1]]) == min(64, 5000 - 64 * block)
    ends = np.cumsum(work.rows)
    without_last = [3e6 * mpx[end - rows : end - 1].sum() for end, rows in zip(ends, work.rows, strict=True) if rows > 4]
    assert max(without_last) < 64 * 2**20
    assert sum(work.finish_s) == pytest.approx(np.sum(np.maximum(0.08 / 8 + 0.011 / 8 * mpx, 0.0295 + 0.031 * mpx)))


def test_some_images_are_large() -> None:
    mpx = sizes_mpx(200_000)
    assert np.median(mpx) == pytest.approx(2, rel=0.02)
    assert 20 < np.quantile(mpx, 0.999) < 28
    assert mpx.max() <= 100


def test_a_token_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst_s=1)
    assert bucket.take(0, 10) == 0  # the burst
    assert bucket.take(0, 5) == pytest.approx(0.5)
    assert bucket.take(0.5, 0) == pytest.approx(0.5)
    assert bucket.take(0.5, 1) == pytest.approx(0.6)
    assert bucket.take(100, 10) == 100  # no more than burst_s is kept
    assert bucket.take(100, 1) == pytest.approx(100.1)


def test_a_store_is_as_fast_as_its_partitions() -> None:
    for partitions, prefixes, expected in ((1, 512, 1), (4, 512, 4), (4, 2, 2)):
        store = Store(100, prefixes, partitions, split_after_s=math.inf)
        latest = max(store.take(0, 10) for _ in range(1000))
        assert latest == pytest.approx(10_000 / (100 * expected) - 1, rel=0.1)


def test_a_throttled_store_splits_its_partitions_by_prefix() -> None:
    for prefixes, expected in ((1, 1), (2, 2), (512, 4)):
        store = Store(100, prefixes, split_after_s=100)
        for second in range(250):
            store.take(float(second), 1000)
        assert len(store.partitions) == expected
    calm = Store(100, 512, split_after_s=100)
    assert all(calm.take(float(second), 90) == second for second in range(1, 1000))
    assert len(calm.partitions) == 1


def test_the_rate_leaves_start_and_end_out() -> None:
    steady = [(10.0 + second, 5) for second in range(100)]
    assert rate([(0.0, 1), *steady, (500.0, 1)]) == pytest.approx(5)
