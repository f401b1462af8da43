from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.sharpen import sharpen

SIDE = 256
NEAR_PX = SIDE // 64 + 2
"""Distance from the contour at which the ramp has ended."""


def square(inside: float = 3.0, outside: float = -2.0) -> torch.Tensor:
    logits = torch.full((1, SIDE, SIDE), outside)
    logits[:, 64:192, 64:192] = inside
    return logits


def test_logits_are_unchanged_at_the_contour_and_multiplied_far_from_it() -> None:
    logits, sharpened = square(), sharpen(square(), 2.0)
    assert torch.equal(sharpened[:, 62:66, 100:150], logits[:, 62:66, 100:150])
    assert torch.equal(sharpened[:, : 64 - NEAR_PX], 2 * logits[:, : 64 - NEAR_PX])
    middle = slice(64 + NEAR_PX, 192 - NEAR_PX)
    assert torch.equal(sharpened[:, middle, middle], 2 * logits[:, middle, middle])


def test_the_transition_has_no_jump() -> None:
    row = sharpen(square(), 2.0)[0, 128, :64]
    steps = row.diff().abs()
    assert 0 < steps.max() <= 2.0 / 5 + 1e-5  # the ramp is five pixels long


def test_a_factor_of_one_changes_nothing() -> None:
    logits = square()
    assert torch.equal(sharpen(logits, 1.0), logits)


def test_a_map_without_a_contour_is_sharpened_everywhere() -> None:
    haze = torch.full((1, SIDE, SIDE), -0.5)
    torch.testing.assert_close(sharpen(haze, 4.0), 4 * haze)


@given(st.integers(0, 1000), st.floats(1, 16), st.sampled_from([1, 7, 32, 320]))
def test_logits_keep_their_sign_and_never_shrink(seed: int, factor: float, side: int) -> None:
    logits = torch.randn(2, side, side, generator=torch.Generator().manual_seed(seed))
    sharpened = sharpen(logits, factor)
    assert torch.equal(sharpened > 0, logits > 0)
    assert (sharpened.abs() >= logits.abs() * (1 - 1e-6)).all()


def test_a_batch_equals_its_items() -> None:
    batch = torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([sharpen(one[None], 2.0) for one in batch])
    torch.testing.assert_close(sharpen(batch, 2.0), alone, atol=0, rtol=0)


def test_it_stays_on_the_device() -> None:
    assert sharpen(torch.empty(2, 512, 512, device="meta"), 2.0).device.type == "meta"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_do_not_spread(number: float) -> None:
    logits = square()
    logits[0, 0, 0] = number
    assert sharpen(logits, 2.0)[0, 10:, 10:].isfinite().all()
