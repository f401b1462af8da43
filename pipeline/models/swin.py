"""Swin Transformer, the backbone of MVANet (arXiv 2103.14030).

One point differs from the classification network: the maps need not be multiples of the window. They are padded with
zeros on the right and at the bottom after the first norm of every block, the padding takes part in attention, and it
is cropped away again; so any frame works. Parameters carry the names of the published checkpoints, except that the
output norms ``norm0..3`` are ``norms.0..3``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

P = ParamSpec("P")
T = TypeVar("T")


class Bias(NamedTuple):
    """A gathered bias, and the table it was gathered from as it was then."""

    table: nn.Parameter
    state: tuple[int, torch.dtype, torch.device]
    bias: Tensor


def once_a_size(make: Callable[P, T]) -> Callable[P, T]:
    """Keep what depends on sizes alone: it is made in the first forward pass, and later ones copy nothing to the device.

    Not in inference mode, whose tensors could not serve a later pass with gradients; and not what an export makes, which
    are placeholders.
    """
    kept = functools.lru_cache(maxsize=32)(torch.inference_mode(False)(make))

    @functools.wraps(make)
    def get(*args: P.args, **kwargs: P.kwargs) -> T:
        return make(*args, **kwargs) if torch.compiler.is_exporting() else kept(*args, **kwargs)  # type: ignore[arg-type]

    return get


@once_a_size
def relative_position_index(window: int, device: torch.device) -> Tensor:
    """Row of the bias table for every pair of tokens in a window.

    Returns:
        (L, L) int64 with L = window²: for tokens at (y, x) and (v, u), ``(y - v + w - 1) * (2w - 1) + x - u + w - 1``.
    """
    y, x = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window, device=device)] * 2, indexing="ij"))
    rows = y[:, None] - y[None, :] + window - 1  # (L, L)
    columns = x[:, None] - x[None, :] + window - 1  # (L, L)
    return rows * (2 * window - 1) + columns


class WindowOrder(NamedTuple):
    """Where a map's tokens go in its windows, and where they come back from."""

    inward: Tensor
    """(windows·L,) int64: the token, as row · W + column, at every place of every window; H·W where padding is."""
    outward: Tensor
    """(H·W,) int64: every token's place among the windows'."""
    size: tuple[int, int]
    """Height and width with the padding."""
    padded: bool


@once_a_size
def window_order(height: int, width: int, window: int, shift: int, device: torch.device) -> WindowOrder:
    """Padding on the right and at the bottom, the cyclic shift and the cut into windows, as one order of tokens.

    Only the order is made once a size; moving whole tokens by it is all that is left of three copies. Padding is zeros
    *before* the linear layer, so that all of it has one query, key and value: the layer works on one such token.
    """
    size = height + -height % window, width + -width % window
    token = torch.arange(height * width, device=device).reshape(height, width)
    places = F.pad(token, (0, size[1] - width, 0, size[0] - height), value=height * width).roll((-shift, -shift), (0, 1))
    inward = split_windows(places[None, :, :, None], window).flatten()
    outward = inward.argsort()[: height * width]
    return WindowOrder(inward, outward, size, size != (height, width))


@once_a_size
def shift_mask(height: int, width: int, window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What keeps tokens apart that only the cyclic shift brought into one window.

    Args:
        height, width: of the padded map, multiples of ``window``.

    Returns:
        (windows, L, L): 0 inside a region of the map, -100 across regions.
    """
    rows, columns = (_regions(side, window, device) for side in (height, width))
    regions = split_windows((rows[:, None] * 3 + columns)[None, :, :, None], window)[0, :, :, 0]  # (windows, L)
    apart = regions[:, :, None] != regions[:, None, :]  # (windows, L, L)
    return torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill_(apart, -100.0)


def _regions(side: int, window: int, device: torch.device) -> Tensor:
    """(side,) 0, 1 or 2: before the last window, and the last window's two halves."""
    place = torch.arange(side, device=device)
    return (place >= side - window).long() + (place >= side - window // 2).long()


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to (B, windows, L, C); H and W are multiples of the window."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, dim: int, hidden: int, act: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
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
        self._cached: Bias | None = None

    def bias(self) -> Tensor:
        """(heads, L, L), gathered from the table: every time while gradients are on, else once per state of the table."""
        table = self.relative_position_bias_table
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self._gather(table)
        version = 0 if table.is_inference() else table._version  # weights made in inference mode count no versions
        cached, state = self._cached, (version, table.dtype, table.device)
        if cached is None or cached.table is not table or cached.state != state:
            with torch.inference_mode(False), torch.no_grad():
                cached = self._cached = Bias(table, state, self._gather(table))
        return cached.bias

    def _gather(self, table: Tensor) -> Tensor:
        index = relative_position_index(self.window, table.device)
        return table[index].permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        batch, height, width, channels = x.shape
        order = window_order(height, width, self.window, self.shift, x.device)
        x = x.flatten(1, 2)  # (B, H·W, C)
        if order.padded:
            x = F.pad(x, (0, 0, 0, 1))  # one token of zeros stands for all the padding
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).index_select(1, order.inward)  # (B, windows·L, C)
            .reshape(batch, -1, self.window**2, self.heads, channels // self.heads)  # (B, windows, L, heads, d)
            for weight, bias in zip(weights, biases, strict=True)
        )  # fmt: skip
        mask = shift_mask(*order.size, self.window, x.device, x.dtype) if self.shift else None  # (windows, L, L)
        seen = attend_windows(q, k, v, self.bias(), mask)  # (B, windows, L, heads, d)
        x = self.proj(seen.flatten(3).flatten(1, 2).index_select(1, order.outward))  # (B, H·W, C)
        return x.reshape(batch, height, width, channels)


def attend_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Attention inside windows: softmax(q·kᵀ/√d + bias + mask)·v.

    Args:
        q, k, v: (B, windows, L, heads, d).
        bias: (heads, L, L).
        mask: (windows, L, L), for shifted windows.

    Returns:
        (B, windows, L, heads, d).
    """
    batch, windows = q.shape[:2]
    if mask is None:
        q, k, v = (part.flatten(0, 1).transpose(1, 2) for part in (q, k, v))  # (B·windows, heads, L, d)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    else:
        # Windows lie beside the heads, so that one mask serves every map of the batch.
        q, k, v = (part.transpose(2, 3).flatten(1, 2) for part in (q, k, v))  # (B, windows·heads, L, d)
        both = (mask[:, None] + bias).flatten(0, 1)  # (windows·heads, L, L)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=both[None])
    x: Tensor = seen.reshape(batch, windows, -1, *seen.shape[2:]).transpose(2, 3)
    return x


class Block(nn.Module):
    """Window attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class PatchEmbed(nn.Module):
    """Pixels to tokens of 4×4 pixels."""

    def __init__(self, dim: int, patch: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 4H, 4W) to (B, H, W, C)."""
        x = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return x


class PatchMerging(nn.Module):
    """Four neighbours to one token of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H/2, W/2, 2C), for even H and W; neighbours in the order (0,0), (1,0), (0,1), (1,1)."""
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4C)
        x = self.reduction(self.norm(x))  # (B, H/2, W/2, 2C)
        return x


class Stage(nn.Module):
    """Blocks at one resolution, every second one shifted; the merging to the next resolution closes it."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        shifts = [0 if block % 2 == 0 else window // 2 for block in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, window, shift) for shift in shifts)
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) to the stage's output (B, H, W, C) and the next stage's input (B, H/2, W/2, 2C)."""
        for block in self.blocks:
            x = block(x)
        return x, x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """The five feature maps that MVANet reads. The defaults are Swin-B with window 12.

    Args:
        dim: channels of the first stage; every stage doubles them.
        depths: blocks a stage.
        heads: attention heads a stage.
        window: side of an attention window, in tokens.
    """

    def __init__(
        self,
        dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 12,
    ) -> None:
        super().__init__()
        dims = [dim * 2**stage for stage in range(len(depths))]
        self.channels = (dim, *dims)
        """Channels of the five feature maps."""
        self.patch_embed = PatchEmbed(dim)
        self.layers = nn.ModuleList(
            Stage(dims[stage], depths[stage], heads[stage], window, last=stage == len(depths) - 1)
            for stage in range(len(depths))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in dims)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of a batch of images.

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
