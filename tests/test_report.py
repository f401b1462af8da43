from __future__ import annotations

from typing import Any

import pytest

from pipeline.log import Meter
from pipeline.report import RunRecord, speed_of


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "90 s"),
        ({"items_per_s": 0.0}, "90 s"),
        ({"items_per_s": 2.5, "idle_share": 0.04}, "90 s, 2.5 items/s, model idle 4% of the time"),
        (
            {"items_per_s": 40, "items_per_gpu_hour": 72000, "idle_share": 0.0},
            "90 s, 40 items/s, 72,000 items a GPU hour, model idle 0% of the time",
        ),
    ],
)
def test_speed_in_words(more: dict[str, Any], said: str) -> None:
    assert speed_of({"seconds": 90.0} | more) == said


def test_a_gpu_s_work_and_leisure_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    record, meter = RunRecord("r", "m", "f", "p", 100, 0), Meter(100)
    meter.counts["ok"], meter.model_s, meter._start = 100, 30.0, 0.0
    monkeypatch.setattr("time.monotonic", lambda: 10.0)
    record.copies, record.gpus_each = 4, 0.5
    record.count(meter, (0, 0, 0), {})
    assert record.idle_share == 0.25  # 30 of 4 copies' 40 seconds were work
    assert record.items_per_gpu_hour == 18_000  # 10 items a second on 2 GPUs
    record.gpus_each = 0.0
    record.count(meter, (0, 0, 0), {})
    assert record.items_per_gpu_hour is None
