"""Windows grouped by kind, against padding, rolling and cutting the map itself."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.models.mvanet.window_attention import PENALTY, find_windows, relative_position_index, window_bias

CPU = torch.device("cpu")
SIZES = [(8, 12), (6, 9), (3, 3), (5, 8), (13, 4)]


def cut(x: torch.Tensor, window: int, shift: int) -> torch.Tensor:
    """Pad, roll and cut a map: (H, W) to (windows, L)."""
    height, width = x.shape
    padded = torch.nn.functional.pad(x, (0, -width % window, 0, -height % window)).roll((-shift, -shift), (0, 1))
    rows, columns = (side // window for side in padded.shape)
    return padded.reshape(rows, window, columns, window).transpose(1, 2).flatten(2).flatten(0, 1)


def test_relative_position_index_is_the_published_buffer(golden_weights: ModuleType) -> None:
    assert np.array_equal(relative_position_index(12, CPU).numpy(), golden_weights.relative_position_index())


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", SIZES)
def test_kinds_hold_the_windows_of_the_padded_and_rolled_map(size: tuple[int, int], shift: int) -> None:
    tokens = torch.arange(1, size[0] * size[1] + 1).reshape(size)  # 0 is padding
    wanted = {tuple(window) for window in cut(tokens, 4, shift).tolist()}
    windows = find_windows(*size, 4, shift, CPU)
    assert windows.padded == (size != (8, 12))
    grouped = []
    for kind in windows.kinds:
        queries = kind.queries.reshape(-1, len(kind.real))
        whole = torch.zeros(len(queries), 16, dtype=torch.int64)
        whole[:, kind.real] = queries + 1
        grouped += [tuple(window) for window in whole.tolist()]
        keys = kind.keys.reshape(len(queries), -1)
        assert torch.equal(keys[:, : len(kind.real)], queries)
        assert keys[:, len(kind.real) :].eq(size[0] * size[1]).all()
        assert kind.copies == keys.shape[1] - len(kind.real)
        assert not kind.copies or keys.shape[1] % 8 == 0
        assert sorted([*kind.real.tolist(), *kind.padding.tolist()]) == list(range(16))
    assert len(grouped) == len(wanted) and set(grouped) == wanted


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", SIZES)
def test_order_undoes_the_cut(size: tuple[int, int], shift: int) -> None:
    windows = find_windows(*size, 4, shift, CPU)
    queries = torch.cat([kind.queries for kind in windows.kinds])
    assert torch.equal(queries[windows.order], torch.arange(size[0] * size[1]))


def test_only_the_last_row_and_column_of_windows_differ() -> None:
    plain, shifted = find_windows(12, 16, 4, 0, CPU), find_windows(12, 16, 4, 2, CPU)
    assert len(plain.kinds) == 1 and not plain.kinds[0].penalty.any()
    assert [len(kind.queries) // 16 for kind in shifted.kinds] == [6, 2, 3, 1]
    # Half of a window's tokens come from another place before the roll, in the corner three quarters.
    assert [int(kind.penalty.eq(PENALTY).sum(1).unique()) for kind in shifted.kinds] == [0, 8, 8, 12]


@pytest.mark.parametrize("shift", [0, 2])
def test_merged_padding_has_the_weight_of_all_padding(shift: int) -> None:
    torch.manual_seed(0)
    bias = 3 * torch.randn(2, 16, 16)
    scores_of_padding, keep = torch.randn(2, 16, 1), torch.randn(2, 16, 16)
    for kind in find_windows(6, 7, 4, shift, CPU).kinds:
        scores = keep.clone()
        scores[..., kind.padding] = scores_of_padding  # one key
        complete = (scores[:, kind.real] + bias[:, kind.real] + kind.penalty).softmax(-1)
        merged = torch.cat(
            [keep[:, kind.real][..., kind.real], scores_of_padding[:, kind.real].expand(-1, -1, kind.copies)], -1
        )
        merged = (merged + window_bias(bias, kind)).softmax(-1)
        torch.testing.assert_close(merged[..., : len(kind.real)], complete[..., kind.real])
        torch.testing.assert_close(merged[..., len(kind.real) :].sum(-1), complete[..., kind.padding].sum(-1))


def test_gradients_reach_the_table_through_merged_padding() -> None:
    bias = torch.randn(2, 16, 16, requires_grad=True)
    for kind in find_windows(6, 6, 4, 2, CPU).kinds:
        window_bias(bias, kind).square().sum().backward()
    assert bias.grad is not None and bias.grad.isfinite().all() and bias.grad.ne(0).all()
