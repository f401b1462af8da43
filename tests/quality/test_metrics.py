"""Metrics, compared with direct calls of PySODMetrics, and edge cases."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.quality import metrics
from pipeline.quality.metrics import CURVES, METRICS, THRESHOLDS, boundary_iou, check_library, measure

sod = pytest.importorskip("py_sod_metrics")


def pair(seed: int, size: tuple[int, int] = (60, 90)) -> tuple[np.ndarray, np.ndarray]:
    """A soft, shifted, noisy ellipse and its ground truth; both (H, W) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    cy, cx, ry, rx = size[0] * 0.5, size[1] * rng.uniform(0.4, 0.6), size[0] * 0.3, size[1] * rng.uniform(0.2, 0.4)
    far = np.hypot((y - cy) / ry, (x - cx) / rx)
    ground_truth = (far < 1).astype(np.uint8) * 255
    soft = 1 / (1 + np.exp(8 * (np.hypot((y - cy - 2) / ry, (x - cx + 3) / rx) - 1)))
    return (np.clip(soft + rng.normal(0, 0.05, size), 0, 1) * 255).astype(np.uint8), ground_truth


def by_hand(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Call the library directly on a data set."""
    thresholded = sod.FmeasureV2(
        {
            "dice": sod.DICEHandler(with_dynamic=True, with_adaptive=True, with_binary=True),
            "fm": sod.FmeasureHandler(with_dynamic=True, with_adaptive=True, beta=0.3),
            "iou": sod.IOUHandler(with_dynamic=True, with_adaptive=True, with_binary=True),
        }
    )
    handlers = [sod.MAE(), sod.Smeasure(), sod.Emeasure(), sod.WeightedFmeasure(), thresholded]
    handlers.append(sod.HumanCorrectionEffortMeasure())
    found: dict[str, Any] = {}
    for handler in handlers:
        for mask, ground_truth in pairs:
            handler.step(pred=mask / 255, gt=ground_truth > 128, normalize=False)
        found |= handler.get_results()
    return found


def test_values_equal_pysodmetrics() -> None:
    pairs = [pair(seed, (40 + 9 * seed, 70 - 3 * seed)) for seed in range(6)]
    wanted, found = by_hand(pairs), [measure(*one, hce=True) for one in pairs]

    def mean(name: str) -> float:
        return float(np.mean([one.values[name] for one in found]))

    for name, number in {
        "mae": wanted["mae"],
        "s_measure": wanted["sm"],
        "e_adaptive": wanted["em"]["adp"],
        "e_mean": wanted["em"]["curve"].mean(),
        "weighted_f": wanted["wfm"],
        "dice_binary": wanted["dice"]["binary"],
        "dice_adaptive": wanted["dice"]["adaptive"],
        "dice_mean": wanted["dice"]["dynamic"].mean(),
        "f_adaptive": wanted["fm"]["adaptive"],
        "f_mean": wanted["fm"]["dynamic"].mean(),
        "iou": wanted["iou"]["binary"],
        "hce": wanted["hce"],
    }.items():
        assert mean(name) == pytest.approx(number, abs=1e-6), name
    curves = {"e_curve": wanted["em"]["curve"], "dice_curve": wanted["dice"]["dynamic"], "f_curve": wanted["fm"]["dynamic"]}
    for name, curve in curves.items():
        ours = np.mean([one.curves[name].astype(np.float32) for one in found], 0, dtype=np.float64)
        assert ours.max() == pytest.approx(curve.max(), abs=1e-6), "a data set's maximum is that of the mean curve"
        assert mean(CURVES[name]) >= curve.max() - 1e-9, "the mean of maxima is never below it"


def test_f_equals_the_older_class() -> None:
    mask, ground_truth = pair(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        older = sod.Fmeasure()
    older.step(mask / 255, ground_truth > 128, normalize=False)
    wanted, found = older.get_results()["fm"], measure(mask, ground_truth)
    assert found.values["f_adaptive"] == pytest.approx(wanted["adp"], abs=1e-6)
    np.testing.assert_allclose(found.curves["f_curve"], wanted["curve"], atol=1e-6)


def test_nothing_is_stretched() -> None:
    """A mask that is a faint shadow of the truth is no good mask; PySODMetrics' default would call it perfect."""
    ground_truth = pair(0)[1]
    found = measure((ground_truth > 0).astype(np.uint8) * 40, ground_truth).values
    assert found["mae"] == pytest.approx((ground_truth > 0).mean() * (1 - 40 / 255))
    assert found["dice_binary"] == 0
    stretched = sod.MAE()
    stretched.step((ground_truth > 0).astype(np.uint8) * 40, ground_truth)
    assert stretched.get_results()["mae"] == 0


def test_ground_truth_is_perfect() -> None:
    ground_truth = pair(1)[1]
    found = measure(ground_truth, ground_truth, hce=True).values
    for name in ("s_measure", "dice_binary", "dice_max", "f_max", "weighted_f", "iou", "boundary_iou"):
        assert found[name] == pytest.approx(1, abs=1e-3), name
    for name in ("mae", "mae_soft", "hce", "sad", "mse", "grad", "conn"):
        assert found[name] == 0, name


def test_soft_ground_truth_is_not_thresholded() -> None:
    ground_truth = np.full((20, 20), 51, np.uint8)
    found = measure(np.full((20, 20), 102, np.uint8), ground_truth).values
    assert found["mae_soft"] == pytest.approx(0.2)
    assert found["mse"] == pytest.approx(0.04)
    assert found["sad"] == pytest.approx(400 * 0.2 / 1000)
    assert found["mae"] == pytest.approx(0.4), "against empty ground truth, as in PySODMetrics"


def eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Erode by 3 x 3 in steps, with background outside the border."""
    for _ in range(steps):
        wide = np.pad(mask, 1)
        shifts = [wide[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        mask = np.logical_and.reduce(shifts)
    return mask


@pytest.mark.parametrize("size", [(60, 90), (200, 260), (7, 5)])
def test_boundary_iou_follows_the_paper(size: tuple[int, int]) -> None:
    mask, ground_truth = (array > 128 for array in pair(4, size))
    width = max(1, round(0.02 * math.hypot(*size)))
    one, other = (array & ~eroded(array, width) for array in (mask, ground_truth))
    assert boundary_iou(mask, ground_truth) == pytest.approx((one & other).sum() / (one | other).sum())


def test_boundary_iou_shows_a_ragged_edge_that_iou_does_not() -> None:
    ground_truth = np.zeros((400, 400), bool)
    ground_truth[20:380, 20:380] = True
    ragged = ground_truth.copy()
    ragged[20:380:2, 20:26] = False
    values = measure(ragged.astype(np.uint8) * 255, ground_truth.astype(np.uint8) * 255).values
    assert values["iou"] is not None and values["iou"] > 0.98
    assert boundary_iou(ragged, ground_truth) < 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 1), (24, 30)])
@pytest.mark.parametrize("levels", [(None, 0), (None, 255), (0, None), (255, None), (0, 0), (255, 255)])
def test_uniform_masks_and_ground_truth_have_numbers_or_none(levels: tuple[int | None, ...], size: tuple[int, int]) -> None:
    mask, ground_truth = (
        one if level is None else np.full(size, level, np.uint8) for one, level in zip(pair(0, size), levels, strict=True)
    )
    found = measure(mask, ground_truth, hce=True)
    assert list(found.values) == [metric.name for metric in METRICS]
    for name, value in found.values.items():
        assert value is None or (math.isfinite(value) and value >= 0), name
    if levels[0] == levels[1]:
        assert found.values["mae"] == 0
        assert found.values["s_measure"] == 1


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0, 1), (0, 255), (0, 256), (255, 256), (100, 160)]),
)
def test_any_mask_has_values_in_range_or_none(height: int, width: int, seed: int, levels: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 256, (height, width), np.uint8)
    ground_truth = rng.integers(*levels, (height, width)).astype(np.uint8)
    found = measure(mask, ground_truth)
    cells = height * width
    for metric in METRICS:
        value = found.values[metric.name]
        if value is None:
            assert metric.name in ("hce", "s_measure") or cells == 1, metric.name
        elif metric.name.startswith("e_"):
            assert 0 <= value <= cells / (cells - 1) + 1e-9
        elif metric.name not in ("sad", "grad", "conn", "hce"):
            assert -1e-9 <= value <= 1 + 1e-9, metric.name
    assert all(curve.shape == (THRESHOLDS,) for curve in found.curves.values())


@pytest.mark.parametrize("shape", [(10, 11), (11, 10), (10, 10, 1), (100,)])
def test_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a mask of shape \(10, 10\) cannot be compared with ground truth of"):
        measure(np.zeros((10, 10), np.uint8), np.zeros(shape, np.uint8))


def test_the_message_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_library()
    monkeypatch.setattr(metrics, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'matteline\[evaluate\]'"):
        check_library()


def test_every_metric_states_its_range() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert "[0, " in metric.about or "0 and more" in metric.about, f"{metric.name} has no range"
