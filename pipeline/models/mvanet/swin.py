"""Swin Transformer, the backbone of MVANet (arXiv 2103.14030).

One difference from the classification network: maps need not be multiples of the window. They are padded with zeros on the
right and at the bottom after the first norm of every block, the padding takes part in attention, and it is cropped afterwards.
So any frame size works. Parameters have the names of the published checkpoints, except that ``norm0..3`` are ``norms.0..3``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.mvanet.window_attention import Windows, find_windows, relative_position_index, window_bias


class BiasCache(NamedTuple):
    """Biases for all windows of a map, and the state of the table that they were gathered from."""

    windows: Windows
    table: nn.Parameter
    state: tuple[int, torch.dtype, torch.device]
    biases: tuple[Tensor, ...]


class MapNorm(nn.LayerNorm):
    """Layer norm of every token of a map, over one row of tokens: OpenVINO has an operation for (B, L, C) only."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, …, C) to the same shape."""
        return super().forward(x.flatten(1, -2)).reshape(x.shape)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, dim: int, hidden: int, act: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, C) to the same shape."""
        x = self.fc2(self.act(self.fc1(x)))
        return x


class WindowAttention(nn.Module):
    """Self-attention inside windows, plain (shift 0) or over windows shifted by half of their side."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self._cached: BiasCache | None = None

    def windows_and_biases(self, height: int, width: int) -> tuple[Windows, tuple[Tensor, ...]]:
        """Return the windows of a map, and the bias of every kind; cached for the last size only, as a CUDA graph needs it.

        ``torch.compile`` cannot trace how they are computed and uses the cache, so run a pass in inference mode first.
        """
        cached = self._cached
        compiling = torch.compiler.is_dynamo_compiling() and not torch.is_grad_enabled()  # cached biases have no gradient
        if compiling and cached is not None and cached.windows.size == (height, width):
            return cached.windows, cached.biases
        windows = find_windows(height, width, self.window, self.shift, self.relative_position_bias_table.device)
        return windows, self.biases(windows)

    def biases(self, windows: Windows) -> tuple[Tensor, ...]:
        """Return (heads, Q, K) for every kind: recomputed while gradients are on, else once per state of the table."""
        table = self.relative_position_bias_table
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self._gather(windows)
        version = 0 if table.is_inference() else table._version  # weights made in inference mode have no version counter
        cached, state = self._cached, (version, table.dtype, table.device)
        if cached is None or cached.windows is not windows or cached.table is not table or cached.state != state:
            with torch.inference_mode(False), torch.no_grad():
                cached = self._cached = BiasCache(windows, table, state, self._gather(windows))
        return cached.biases

    def _gather(self, windows: Windows) -> tuple[Tensor, ...]:
        table = self.relative_position_bias_table
        bias = table[relative_position_index(self.window, table.device)].permute(2, 0, 1)  # (heads, L, L)
        return tuple(window_bias(bias, kind) for kind in windows.kinds)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map (B, height·width, C) to the same shape."""
        windows, window_biases = self.windows_and_biases(height, width)
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        scale = math.sqrt(self.heads / x.shape[-1])  # 1/√d, applied to the weights, which are fewer numbers
        q = F.linear(x, weights[0] * scale, biases[0] * scale)  # (B, H·W, C)
        if windows.padded:
            x = F.pad(x, (0, 0, 0, 1))  # one token of zeros represents all padding
        k, v = (F.linear(x, weight, bias) for weight, bias in zip(weights[1:], biases[1:], strict=True))
        attended = [
            attend_windows(q.index_select(1, kind.queries), k.index_select(1, kind.keys), v.index_select(1, kind.keys), bias)
            for kind, bias in zip(windows.kinds, window_biases, strict=True)
        ]
        x = self.proj(torch.cat(attended, 1).index_select(1, windows.order))  # (B, H·W, C)
        return x


def attend_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Compute attention inside windows of one kind: softmax(q·kᵀ + bias)·v.

    Args:
        q: (B, windows·Q, C), window after window.
        k: (B, windows·K, C).
        v: (B, windows·K, C).
        bias: (heads, Q, K).

    Returns:
        (B, windows·Q, C).
    """
    heads, queries, keys = bias.shape
    parts = zip((q, k, v), (queries, keys, keys), strict=True)
    by_head = (part.reshape(-1, length, heads, part.shape[-1] // heads).transpose(1, 2) for part, length in parts)
    query, key, value = by_head  # (B·windows, heads, Q or K, d)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None], scale=1.0)
    return attended.transpose(1, 2).reshape(q.shape)


class Block(nn.Module):
    """Window attention and MLP, each with a norm before it and a residual connection."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map (B, height·width, C) to the same shape."""
        x = x + self.attn(self.norm1(x), height, width)
        x = x + self.mlp(self.norm2(x))
        return x


class PatchEmbed(nn.Module):
    """Embedding of patches of 4×4 pixels as tokens."""

    def __init__(self, dim: int, patch: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.norm = MapNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, 4H, 4W) to (B, H, W, C)."""
        x = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return x


class PatchMerging(nn.Module):
    """Reduction of four neighbours to one token of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = MapNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H/2, W/2, 2C), for even H and W; neighbours in the order (0,0), (1,0), (0,1), (1,1)."""
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4C)
        x = self.reduction(self.norm(x))  # (B, H/2, W/2, 2C)
        return x


class Stage(nn.Module):
    """Blocks at one resolution, every second one shifted, followed by the merging to the next resolution."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        shifts = [0 if block % 2 == 0 else window // 2 for block in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, window, shift) for shift in shifts)
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, C) to the stage's output (B, H, W, C) and the next stage's input (B, H/2, W/2, 2C)."""
        height, width = x.shape[1:3]
        tokens = x.flatten(1, 2)  # (B, H·W, C)
        for block in self.blocks:
            tokens = block(tokens, height, width)
        x = tokens.reshape(x.shape)
        return x, x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """The backbone with the five feature maps that MVANet reads. The defaults are Swin-B with window 12.

    Args:
        dim: Channels of the first stage; every stage doubles them.
        depths: Blocks per stage.
        heads: Attention heads per stage.
        window: Side of an attention window, in tokens.
    """

    def __init__(
        self, dim: int = 128, depths: Sequence[int] = (2, 2, 18, 2), heads: Sequence[int] = (4, 8, 16, 32), window: int = 12
    ) -> None:
        super().__init__()
        dims = [dim * 2**stage for stage in range(len(depths))]
        self.channels = (dim, *dims)
        """Channels of the five feature maps."""
        self.strides = (1, 1, 1, 1, 1)
        """See ``TimmFeatures``: the maps have the sides that the decoder needs."""
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList(
            Stage(dims[stage], depths[stage], heads[stage], window, last=stage == len(depths) - 1)
            for stage in range(len(depths))
        )
        self.norms = nn.ModuleList(MapNorm(width) for width in dims)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the features of a batch of images.

        Args:
            x: (B, 3, H, W), H and W multiples of 32.

        Returns:
            The patch embedding before any block, (B, C, H/4, W/4), then the normed output of every stage:
            (B, C, H/4, W/4), (B, 2C, H/8, W/8), (B, 4C, H/16, W/16), (B, 8C, H/32, W/32). Channels-last in memory.
        """
        x = self.patch_embed(x)  # (B, H/4, W/4, C)
        features = [x]
        for stage, norm in zip(self.layers, self.norms, strict=True):
            out, x = stage(x)  # (B, h, w, c), (B, h/2, w/2, 2c)
            features.append(norm(out))
        return [feature.permute(0, 3, 1, 2) for feature in features]  # (B, c, h, w)
