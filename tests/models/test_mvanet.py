"""The decoder's parts against their definitions, and the complete network at small sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pipeline.models.mvanet.network import (
    BEN2,
    MVANET,
    CrossAttention,
    InstanceNorm,
    Variant,
    cut,
    pool_grids,
    positions,
    stitch,
    to_nchw,
    to_nhwc,
)

CPU = torch.device("cpu")
VARIANTS = pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["ben2", "mvanet"])


def test_quarters_are_cut_row_by_row_and_stitched_again() -> None:
    whole = torch.arange(2 * 8 * 12 * 3.0).reshape(2, 8, 12, 3)
    quarters = cut(whole)
    assert quarters.shape == (2, 4, 4, 6, 3)
    assert torch.equal(quarters[1, 1], whole[1, :4, 6:])
    assert torch.equal(quarters[1, 2], whole[1, 4:, :6])
    assert torch.equal(stitch(quarters), whole)


@pytest.mark.parametrize(
    ("side", "sides"), [(16, [16, 4, 2]), (12, [12, 3, 2]), (20, [20, 5, 2]), (22, [22, 6, 3]), (4, [4, 1]), (2, [2])]
)
def test_pools_round_half_to_even_and_leave_out_empty_grids(side: int, sides: list[int]) -> None:
    x = torch.randn(1, 2 * side, 2 * side, 2)
    pooled = pool_grids(x, [side, side / 4, side / 8])
    assert [tuple(grid.shape[1:3]) for grid in pooled] == [(one, one) for one in sides]
    torch.testing.assert_close(to_nchw(pooled[0]), F.avg_pool2d(to_nchw(x), 2))
    for grid, one in zip(pooled, sides, strict=True):
        torch.testing.assert_close(to_nchw(grid), F.adaptive_avg_pool2d(to_nchw(x), one))


def test_instance_norm_is_torchs() -> None:
    x = 3 * torch.randn(2, 5, 7, 6) + 2
    torch.testing.assert_close(InstanceNorm()(x), F.instance_norm(x))


def test_positions_are_sines_of_pixel_centres() -> None:
    height, width, channels = 3, 5, 8
    encoded = positions(height, width, channels, CPU, torch.float64).reshape(height, width, channels)
    for y in range(height):
        for x in range(width):
            for channel in range(channels):
                place, side = ((y, height), (x, width))[channel // 4]
                within = channel % 4
                angle = (place + 0.5) / side * 2 * math.pi / 10000 ** (2 * (within // 2) / 4)
                wanted = math.cos(angle) if within % 2 else math.sin(angle)
                assert encoded[y, x, channel].item() == pytest.approx(wanted, abs=1e-5)


def test_cross_attention_is_multihead_attention_with_one_head() -> None:
    torch.manual_seed(0)
    ours, theirs = CrossAttention(16), nn.MultiheadAttention(16, 1, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = torch.randn(2, 7, 16), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(query, key, value), theirs(query, key, value)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("by", [2, 4])
def test_the_reduced_shallow_map_is_exact(by: int, small_network: Any) -> None:
    network = small_network(BEN2)
    x = torch.randn(2, 3, 64, 64)
    wanted = F.interpolate(network.shallow(x), scale_factor=1 / by, mode="bilinear", align_corners=False)
    torch.testing.assert_close(network.shallow_reduced(x, by), wanted, atol=1e-6, rtol=0)


@VARIANTS
@pytest.mark.parametrize("side", [128, 256, 384])
def test_a_batch_equals_its_images(variant: Variant, side: int, small_network: Any) -> None:
    network = small_network(variant)
    frames = torch.randn(3, 3, side, side)
    with torch.inference_mode():
        batch = network(frames)
        alone = torch.cat([network(frame[None]) for frame in frames])
    assert batch.shape == (3, 1, side, side)
    assert (alone[0] - alone[1]).abs().mean() > 1e-3, "the images must differ for this to mean anything"
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=0)


@VARIANTS
def test_every_parameter_gets_a_gradient(variant: Variant, small_network: Any) -> None:
    network = small_network(variant)
    network(torch.randn(1, 3, 128, 128)).square().mean().backward()
    without_gradient = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.any()
    ]
    # A norm without affine parameters removes any constant, so biases before it get rounding noise at most.
    assert [name for name in without_gradient if not name.endswith("conv.bias")] == []


@VARIANTS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_close(variant: Variant, dtype: torch.dtype, small_network: Any) -> None:
    network = small_network(variant)
    frames = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        exact = network(frames).sigmoid()
        half = network.to(dtype)(frames.to(dtype)).float().sigmoid()
    assert (exact - half).abs().mean() < (0.02 if dtype == torch.bfloat16 else 0.003)


def test_quarters_are_not_interchangeable(small_network: Any) -> None:
    """Swapping two quarters of the image must not only swap the quarters of the result."""
    network = small_network(BEN2)
    frame = torch.randn(1, 3, 128, 128)

    def swap(x: torch.Tensor) -> torch.Tensor:
        return to_nchw(stitch(cut(to_nhwc(x))[:, [1, 0, 2, 3]]))

    with torch.inference_mode():
        difference = swap(network(frame)) - network(swap(frame))
    assert difference.abs().mean() > 1e-3


@pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["ben2", "mvanet"])
def test_torch_compile_can_trace_it(variant: Variant, small_network: Any) -> None:
    """Tracing only; ``matteline bench`` on a GPU runs its compiler."""
    network, x = small_network(variant), torch.randn(1, 3, 128, 128)
    compiled = torch.compile(network, backend="eager")
    with torch.inference_mode():
        before = network(x)  # fills the cache of windows and biases
        torch.testing.assert_close(compiled(x), before, atol=1e-5, rtol=0)
