"""Each rewrite of a computation against the plain form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pipeline.models.mvanet.fuse import fuse_conv_bn
from pipeline.models.mvanet.network import BEN2, MVANET, Variant
from pipeline.models.mvanet.upsample import conv_phases, conv_upsampled, interleave, normalise_phases

SIDES = [(1, 1), (2, 3), (7, 4), (16, 16)]


def close(a: Tensor, b: Tensor) -> None:
    """Assert equality to 1e-5 of the scale."""
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max()))


def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1)


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_convolution_after_upsampling(size: tuple[int, int], with_bias: bool) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(2, 5, *size), torch.randn(7, 5, 3, 3)
    bias = torch.randn(7) if with_bias else None
    close(interleave(conv_upsampled(x, weight, bias)), plain(x, weight, bias))


@pytest.mark.parametrize("size", [(2, 3), (16, 16)])
def test_instance_norm_over_all_phases(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    x, weight, bias = torch.randn(3, 5, *size), torch.randn(7, 5, 3, 3), torch.randn(7) * 10
    close(interleave(normalise_phases(conv_upsampled(x, weight, bias))), F.instance_norm(plain(x, weight, bias)))


@pytest.mark.parametrize("spread", [1.0, 300.0, 3000.0])
def test_instance_norm_in_half_precision_of_any_spread(spread: float) -> None:
    """The variance of such maps overflows half precision; their deviation does not."""
    torch.manual_seed(3)
    parts = [torch.randn(1, 4, 16, 16) * spread for _ in range(4)]
    wanted = F.instance_norm(interleave(parts))
    normed = interleave(normalise_phases([part.half() for part in parts]))
    assert (normed.float() - wanted).abs().max() < 0.02


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_second_convolution_on_the_phases(size: tuple[int, int], outputs: int) -> None:
    torch.manual_seed(3)
    x, weight, second, bias = (
        torch.randn(2, 5, *size),
        torch.randn(7, 5, 3, 3),
        torch.randn(outputs, 7, 3, 3),
        torch.randn(outputs),
    )
    phases = [F.gelu(part) for part in conv_upsampled(x, weight, None)]
    close(conv_phases(phases, second, bias), F.conv2d(F.gelu(plain(x, weight, None)), second, bias, padding=1))


def test_gradients_equal_the_plain_forms() -> None:
    torch.manual_seed(4)
    gradients = []
    x, weight, second = torch.randn(1, 4, 5, 6), torch.randn(3, 4, 3, 3), torch.randn(1, 3, 3, 3)

    def rewritten(x: Tensor, weight: Tensor, second: Tensor) -> Tensor:
        return conv_phases([F.gelu(part) for part in normalise_phases(conv_upsampled(x, weight, None))], second, None)

    def straight(x: Tensor, weight: Tensor, second: Tensor) -> Tensor:
        return F.conv2d(F.gelu(F.instance_norm(plain(x, weight, None))), second, padding=1)

    for form in (rewritten, straight):
        inputs = [tensor.clone().requires_grad_() for tensor in (x, weight, second)]
        form(*inputs).square().sum().backward()
        gradients.append([tensor.grad for tensor in inputs])
    for a, b in zip(*gradients, strict=True):
        assert a is not None and b is not None
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


@pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["instance", "batch"])
def test_fused_norms_change_nothing(small_network: Any, variant: Variant) -> None:
    network = small_network(variant)
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        before = network(x)
        fuse_conv_bn(network)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
        close(network(x), before)


@pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["instance", "batch"])
@pytest.mark.parametrize("side", [128, 384])
def test_the_network_equals_its_published_form(plain_forward: Any, small_network: Any, variant: Variant, side: int) -> None:
    network, x = small_network(variant), torch.randn(2, 3, side, side)
    with torch.no_grad():
        close(network(x), plain_forward(network, x))


@pytest.mark.parametrize("variant", [BEN2, MVANET], ids=["instance", "batch"])
def test_training_mode_works(small_network: Any, variant: Variant) -> None:
    """Batch norms use statistics of the complete map; with instance norms training and inference are equal."""
    network, x = small_network(variant), torch.randn(2, 3, 128, 128)
    trained = network.train()(x)
    trained.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    if variant == BEN2:
        close(trained.detach(), network.eval()(x).detach())
