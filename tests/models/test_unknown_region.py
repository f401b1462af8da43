from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from pipeline.imaging.components import Components
from pipeline.models.refiners.unknown_region import (
    DILATE_PX,
    EDGE_STEP,
    HIGH,
    LOW,
    MAX_UNSURE_SHARE,
    find_unknown,
    unsure_share,
)
from pipeline.models.signal_names import signals_by_name
from pipeline.models.signals import measure_signals
from pipeline.quality.score import Score, all_signals, score

SIDE = 64


def disc(radius: float, softness: float = 1.0, side: int = SIDE) -> torch.Tensor:
    """Return a disc (1, side, side): 1 inside, 0 outside, a ramp of ``softness`` pixels between."""
    y, x = torch.meshgrid(torch.arange(side) - side / 2, torch.arange(side) - side / 2, indexing="ij")
    return ((radius - torch.hypot(x, y)) / softness + 0.5).clamp(0, 1)[None]


@pytest.mark.parametrize("level", [0.0, LOW, HIGH, 1.0])
def test_a_sure_base_has_no_unknown_region(level: float) -> None:
    assert find_unknown(torch.full((2, SIDE, SIDE), level)).sum() == 0


def test_a_hard_edge_is_unknown() -> None:
    """Both sides are sure, but enlarged, the edge would be a ramp."""
    p = torch.zeros(1, SIDE, SIDE)
    p[:, :, 20:] = 1
    unknown = find_unknown(p)[0]
    assert unknown[:, 19:21].min() == 1
    assert unknown[:, : 20 - 2 - DILATE_PX].sum() == 0
    assert unknown[:, 20 + 2 + DILATE_PX :].sum() == 0


def test_a_soft_edge_is_completely_unknown() -> None:
    p = disc(20, softness=12)
    unsure = (p > LOW) & (p < HIGH)
    assert find_unknown(p)[unsure].min() == 1


def test_specks_are_dropped() -> None:
    p = torch.zeros(1, SIDE, SIDE)
    p[0, 10, 10] = p[0, 30, 30] = p[0, 30, 31] = 0.4
    p[0, 50:52, 50:52] = 0.4
    unknown = find_unknown(p)[0]
    assert unknown[:40].sum() == 0
    assert unknown[50:52, 50:52].min() == 1


@given(seed=st.integers(0, 2**32 - 1), smooth=st.integers(0, 4))
def test_pixels_far_from_unsure_ones_are_known(seed: int, smooth: int) -> None:
    p = torch.rand((1, 1, 40, 40), generator=torch.Generator().manual_seed(seed)) ** 3
    p = F.avg_pool2d(p, 2 * smooth + 1, 1, smooth)
    unknown = find_unknown(p[:, 0])[:, None]
    assert float(unknown.min()) >= 0
    assert float(unknown.max()) <= 1
    step = F.max_pool2d(p, 3, 1, 1) + F.max_pool2d(-p, 3, 1, 1) > EDGE_STEP
    unsure = ((p > LOW) & (p < HIGH) | step).float()
    reach = F.max_pool2d(unsure, 2 * DILATE_PX + 1, 1, DILATE_PX)
    assert unknown[reach == 0].sum() == 0


def test_a_batch_is_its_items() -> None:
    maps = torch.cat([disc(20, 12), disc(10), torch.full((1, SIDE, SIDE), 0.5)])
    torch.testing.assert_close(find_unknown(maps), torch.cat([find_unknown(one[None]) for one in maps]), atol=0, rtol=0)


def score_of(p: torch.Tensor) -> Score:
    table, _ = measure_signals(torch.logit(p), p, None, torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8))
    return score(all_signals(signals_by_name(table.numpy())[0], Components(1, 1.0, 0)))


def test_a_mostly_unsure_object_is_refined_at_its_contour_only_and_has_a_lower_quality() -> None:
    p = torch.full((1, SIDE, SIDE), 0.02)
    p[:, 12:52, 12:52] = 0.3
    p[:, 12:20, 12:52] = 0.8
    assert unsure_share(p)[0] > MAX_UNSURE_SHARE
    unknown = find_unknown(p)[0]
    assert unknown[12, 30] == 1
    assert unknown[32:40, 28:36].sum() == 0
    scored = score_of(p)
    assert "uncertain_share" in scored.reasons
    assert scored.quality < 0.95


def test_any_haze_that_limits_the_unknown_region_lowers_the_quality() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = torch.full((1, SIDE, SIDE), 0.01)
        size = int(rng.integers(10, 60))
        p[:, :size, :size] = 0.99
        p[:, : int(size * rng.random())] = float(rng.uniform(0.1, 0.9))
        assert unsure_share(p)[0] <= MAX_UNSURE_SHARE or score_of(p).quality < 0.95
