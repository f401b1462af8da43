"""The run record counts items, hours and idle time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.output.counters import RunCounters
from pipeline.output.output import Output
from pipeline.output.run_record import RunRecord, records, speed_of
from pipeline.run.stages.commit import NO_FRAMES
from pipeline.storage.files import Files


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "90 s"),
        ({"items_per_s": 0.0}, "90 s"),
        ({"items_per_s": 2.5, "idle_share": 0.04}, "90 s, 2.5 items/s, model idle 4% of the time"),
        (
            {"items_per_s": 40, "items_per_gpu_hour": 72000, "idle_share": 0.0},
            "90 s, 40 items/s, 72,000 items per GPU hour, model idle 0% of the time",
        ),
    ],
)
def test_speed_in_words(fields: dict[str, Any], words: str) -> None:
    assert speed_of({"seconds": 90.0} | fields) == words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_gpu_hours_and_idle_share(clock: list[float]) -> None:
    record, counters = RunRecord("r", "m", "f", "p", 100, 0), RunCounters(100)
    record.gpus_per_actor, counters.model_s = 0.5, 30.0
    with counters.working(4):
        clock[0] += 10
        counters.add(80, 20, 0)
    record.count(counters)
    assert record.idle_share == 0.25  # 30 of the 40 seconds of 4 actors were work
    assert record.items_per_gpu_hour == 18_000  # 10 items per second on 2 GPUs
    record.gpus_per_actor = 0.0
    record.count(counters)
    assert record.items_per_gpu_hour is None


def test_a_second_pass_adds_to_the_first(clock: list[float]) -> None:
    """Three lost items that take 40 s after an hour do not distort the speed."""
    record, counters = RunRecord("r", "m", "f", "p", 36_003, 0), RunCounters(36_003)
    record.gpus_per_actor = 1.0
    for seconds, items in ((3600, 36_000), (40, 3)):
        with counters.working(2):
            clock[0] += seconds
            counters.add(items, 0, 0)
            counters.add_failures({"decode": {"item_id": "a", "detail": "d", "count": 1, "named": []}})
        clock[0] += 900  # between passes, waiting for machines: not counted
    record.count(counters)
    assert (record.ok, record.failures["decode"]["count"]) == (36_003, 2)
    assert record.items_per_s == pytest.approx(36_003 / 3640, abs=1e-3)
    assert record.actor_hours == pytest.approx(2 * 3640 / 3600)
    assert record.items_per_gpu_hour == round(36_003 / 2 / 3640 * 3600)


def test_expectations_of_parts_add_up() -> None:
    record, counters = RunRecord("r", "m", "f", "p", 100, 0), RunCounters(100)
    part = {"ok": 0, "review": 0, "failed": 0, "model_s": 0.0, "failures": "{}", **NO_FRAMES}

    def add(items: int, mean: float, variance: float) -> None:
        counters.add_part(part | {"expected_items": items, "expected_mean": mean, "expected_variance": variance})

    add(0, 0.0, 0.0)
    record.count(counters)
    assert record.expected_below is None
    add(60, 4.0, 3.0)
    add(40, 5.0, 4.0)
    record.count(counters)
    assert record.expected_below == {"dice_below": 0.95, "ok": 100, "expected": 9.0, "low": 4, "high": 14}


def test_actors_that_start_later_count_from_their_start(clock: list[float]) -> None:
    record, counters = RunRecord("r", "m", "f", "p", 100, 0), RunCounters(100)
    record.gpus_per_actor, counters.model_s = 1.0, 80.0
    with counters.working(1):
        clock[0] += 20
        counters.add(10, 0, 0)
        counters.actors = 4
        clock[0] += 20
        counters.add(40, 0, 0)
    record.count(counters)
    assert record.actor_hours == pytest.approx(100 / 3600)
    assert (record.idle_share, record.items_per_gpu_hour) == (0.2, 1800)
    unknown = RunCounters(100)
    with unknown.working(0):
        clock[0] += 20
        unknown.add(10, 0, 0)
    other = RunRecord("r", "m", "f", "p", 100, 0)
    other.count(unknown)
    assert (other.items_per_s, other.actor_hours, other.idle_share) == (0.5, None, None)


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"[]", b"3", b"[" * 5000, b"\xff"),
        *({"run_id": 3}, {"seconds": None}, {"ok": "1"}, {"failures": {"fetch": {}}}, {"failures": 3}, {"manifest": 0.5}),
        *({"drift": {"drifted": True}}, {"idle_share": "x"}, {"items": -1}, {"seconds": 1e300}),
    ],
)
def test_damaged_records_are_left_out(tmp_path: Path, damage: bytes | dict[str, Any]) -> None:
    output = Output.at(str(tmp_path), Files())
    for run_id in ("1", "2"):
        record = RunRecord(run_id, "m.csv", "0" * 64, "fake", 3, 0)
        record.close(0)
        record.write(output)
    path = Path(output.layout.run("2"))
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps(json.loads(path.read_text()) | damage).encode())
    assert [one["run_id"] for one in records(output)] == ["1"]
