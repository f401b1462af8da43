"""The backbone against the paper's definitions, written out in loops."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from pipeline.models.mvanet.swin import PatchMerging, Swin, WindowAttention
from pipeline.models.mvanet.window_attention import find_windows

CPU = torch.device("cpu")


def small_swin() -> Swin:
    torch.manual_seed(0)
    return Swin(dim=16, depths=(2, 2), heads=(2, 4), window=4).eval()


def attend_slowly(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Attend in one (H, W, C) map, token by token, to tokens of the same window that were neighbours before the shift."""
    window, shift, heads = attention.window, attention.shift, attention.heads
    height, width, channels = x.shape
    rows, columns = (math.ceil(side / window) * window for side in (height, width))
    padded = torch.zeros(rows, columns, channels)
    padded[:height, :width] = x
    q, k, v = attention.qkv(padded).reshape(rows, columns, 3, heads, channels // heads).unbind(2)

    def region(y: int, x: int) -> tuple[int, ...]:
        """Return the window after the shift, and the side of the map's wrapped edge."""
        moved = (y - shift) % rows, (x - shift) % columns
        wrapped = (y < shift, x < shift) if shift else (False, False)
        return moved[0] // window, moved[1] // window, *wrapped

    out = torch.zeros(rows, columns, heads, channels // heads)
    places = [(y, x) for y in range(rows) for x in range(columns)]
    for here in places:
        context = [there for there in places if region(*there) == region(*here)]
        for head in range(heads):
            scores = []
            for there in context:
                # Inside a window, offsets are those between places of the shifted map.
                dy, dx = (
                    (a - shift) % side - (b - shift) % side for a, b, side in zip(here, there, (rows, columns), strict=True)
                )
                bias = attention.relative_position_bias_table[(dy + window - 1) * (2 * window - 1) + dx + window - 1, head]
                scores.append(q[here][head] @ k[there][head] / math.sqrt(channels // heads) + bias)
            weights = torch.stack(scores).softmax(0)
            out[here][head] = sum(weight * v[there][head] for weight, there in zip(weights, context, strict=True))
    return attention.proj(out.flatten(2))[:height, :width]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (6, 9), (4, 4), (3, 11), (5, 5)])
def test_window_attention_equals_its_definition(shift: int, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    attention = WindowAttention(dim=8, heads=2, window=4, shift=shift)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    maps = torch.randn(2, *size, 8)
    with torch.no_grad():
        slow = torch.stack([attend_slowly(attention, one) for one in maps])
        torch.testing.assert_close(attention(maps.flatten(1, 2), *size), slow.flatten(1, 2), atol=1e-5, rtol=0)


def test_patch_merging_orders_neighbours_column_by_column() -> None:
    merging = PatchMerging(1)
    merging.norm = torch.nn.Identity()
    merging.reduction = torch.nn.Identity()
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, :, :, None]
    assert merging(x).flatten().tolist() == [0, 2, 1, 3]


def test_stages_halve_the_side_and_double_the_channels() -> None:
    with torch.no_grad():
        features = small_swin()(torch.randn(3, 3, 64, 96))
    assert [tuple(feature.shape) for feature in features] == [(3, 16, 16, 24), (3, 16, 16, 24), (3, 32, 8, 12)]


@pytest.mark.parametrize("change", ["in place", "load", "assign", "dtype"])
def test_biases_follow_their_table(change: str) -> None:
    attention = WindowAttention(dim=8, heads=2, window=4, shift=2)
    x, windows = torch.randn(1, 42, 8), find_windows(6, 7, 4, 2, CPU)
    with torch.inference_mode():
        before = attention(x, 6, 7)
        assert attention.biases(windows) is attention.biases(windows), "recomputed in every forward pass"
    state = {key: torch.randn_like(value) for key, value in attention.state_dict().items()}
    if change == "in place":
        with torch.no_grad():
            attention.relative_position_bias_table.normal_()
    elif change == "dtype":
        attention.double()
        x = x.double()
    else:
        attention.load_state_dict(state, assign=change == "assign")
    with torch.inference_mode():
        after = attention(x, 6, 7)
    fresh = attention(x, 6, 7)  # with gradients on, nothing is cached
    torch.testing.assert_close(after, fresh, atol=1e-5, rtol=0)
    assert (change == "dtype") == torch.allclose(before, after.float(), atol=1e-4)


def test_map_sizes_may_alternate() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(dim=8, heads=2, window=4, shift=2)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    sizes = [(6, 7), (5, 9), (6, 7), (8, 8)]
    maps = [torch.randn(1, height * width, 8) for height, width in sizes]
    with torch.inference_mode():
        outputs = [attention(x, *size) for x, size in zip(maps, sizes, strict=True)]
    for output, x, size in zip(outputs, maps, sizes, strict=True):
        torch.testing.assert_close(output, attention(x, *size), atol=1e-5, rtol=0)  # with gradients on, nothing is cached


def test_a_used_network_can_be_pickled() -> None:
    swin = small_swin()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = swin(x)
        sent = pickle.loads(pickle.dumps(swin))(x)
    assert all(torch.equal(a, b) for a, b in zip(before, sent, strict=True))


def test_training_works_after_inference() -> None:
    swin = small_swin()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        swin(x)
    sum(feature.square().mean() for feature in swin(x)).backward()
    table = swin.layers[0].blocks[1].attn.relative_position_bias_table
    assert table.grad is not None and table.grad.abs().sum() > 0
