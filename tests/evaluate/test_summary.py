"""Differences of models on the same items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluate.schema import EVALUATION
from pipeline.evaluate.summary import differences, summarise
from pipeline.quality.intervals import means
from pipeline.quality.metrics import CURVES, METRICS, THRESHOLDS

N = 200


def rows(dice: np.ndarray, ids: list[str], **columns: object) -> pa.Table:
    """Rows of an evaluation with one metric."""
    table = {metric.name: pa.nulls(len(ids), pa.float64()) for metric in METRICS}
    given = {"item_id": ids, "error_code": pa.nulls(len(ids), pa.string()), "tags": [["all"]] * len(ids), "group": ids}
    return pa.table(table | given | {"dice_binary": dice, "e_max": dice, **columns})


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Dice of two models: photos are hard for both, and one of them is better by 0.01."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.3, 0.98, N)
    return hard, hard + 0.01 + rng.normal(0, 0.01, N)


def test_a_small_difference_on_the_same_items_is_outside_the_paired_interval(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ids = [f"{number:03}" for number in range(N)]
    first, other = pair
    overall, tags = differences(rows(other, ids), rows(first, ids))
    one = overall.metrics["dice_binary"]
    assert (overall.items, tags["all"].items) == (N, N)
    assert one.value == pytest.approx((other - first).mean()) and tags["all"].metrics["dice_binary"] == one
    assert 0.005 < one.low < one.value < one.high < 0.015
    alone = means(other[:, None])[0]
    assert alone.low < first.mean(), "the interval of one model alone contains the other"
    assert not set(CURVES.values()) & set(overall.metrics), "one threshold for a data set has no difference per item"


def test_items_are_paired_by_id_and_those_of_one_model_only_are_left_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, other = pair
    ids = [f"{number:03}" for number in range(N)]
    errors = pa.array([None] * (N - 2) + ["truth", "mask"], pa.string())
    turned = rows(other[::-1], ids[::-1])
    overall, _ = differences(turned, rows(first, ids, error_code=errors))
    assert overall.items == N - 2
    assert overall.metrics["dice_binary"].value == pytest.approx((other - first)[:-2].mean())
    none, tags = differences(rows(other[:3], ["x", "y", "z"]), rows(first, ids))
    assert (none.items, none.metrics, tags) == (0, {}, {})


def test_items_of_one_group_are_drawn_together(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, other = pair
    ids = [f"{number:03}" for number in range(N)]
    groups = [f"{number // 20}" for number in range(N)]
    shift = np.repeat(np.random.default_rng(1).normal(0, 0.05, N // 20), 20)
    apart, _ = differences(rows(other + shift, ids), rows(first, ids))
    together, _ = differences(rows(other + shift, ids, group=groups), rows(first, ids))
    wide, narrow = (one.metrics["dice_binary"] for one in (together, apart))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_an_item_without_a_curve_does_not_count_in_the_maximum_of_the_mean() -> None:
    """A curve of an image of one pixel is a division by nothing."""
    curves = {name: [0.5] * THRESHOLDS for name in CURVES} | dict.fromkeys(CURVES.values(), 0.5)
    broken = {name: [1e15] * THRESHOLDS for name in CURVES} | dict.fromkeys(CURVES.values())
    same = {"group": "a", "status": "ok", "dice_binary": 0.9, "quality": 0.5}
    made = [{"item_id": f"{number}", **same, **(broken if number == 2 else curves)} for number in range(3)]
    summary = summarise("model", "recipe", pa.Table.from_pylist(made, EVALUATION))
    assert summary.overall.items == 3
    assert {summary.overall.metrics[name].value for name in CURVES.values()} == {0.5}
