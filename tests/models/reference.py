"""MVANet as published, without our rewrites: the reference for their results.

One image at a time, attention by its matrices (with the averaged weights that nothing uses), convolutions on upsampled maps,
full-size features that are then reduced, masks and biases recomputed in every forward pass. It uses the parameters of the
package's network, but none of its forward passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def plain_forward(network: Any, frames: Tensor) -> Tensor:
    """Map (N, 3, S, S), normalised, to logits (N, 1, S, S)."""
    return torch.cat([_image(network, frame[None]) for frame in frames])


def _image(net: Any, x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    quarters = [x[..., r : r + half, c : c + half] for r in (0, half) for c in (0, half)]
    views = torch.cat([*quarters, F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)])  # (5, 3, S/2, S/2)
    e = [_block(block, f) for block, f in zip(net.lateral, _swin(net.backbone, views), strict=True)]
    z = _mclm(net.mclm, e[4])
    for k in (3, 2, 1, 0):
        z = e[k] + F.interpolate(z, size=e[k].shape[-2:], mode="bilinear", align_corners=False)
        z = _block(net.smooth[k], _mcrm(net.mcrm[k], z))
    whole = _stitch(z[:4])
    whole = whole + F.interpolate(z[4:], size=whole.shape[-2:], mode="bilinear", align_corners=False)
    whole = net.merge[2](_block(net.merge[1], _block(net.merge[0], whole)))
    shallow = net.shallow(x)
    for block in (net.upsample1, net.upsample2):
        whole = whole + F.interpolate(shallow, size=whole.shape[-2:], mode="bilinear", align_corners=False)
        whole = _block(block, F.interpolate(whole, scale_factor=2, mode="nearest"))
    logits: Tensor = net.output(whole)
    return logits


def _block(block: Any, x: Tensor) -> Tensor:
    out: Tensor = block.act(block.norm(block.conv(x)))
    return out


def _stitch(quarters: Tensor) -> Tensor:
    a, b, c, d = quarters
    return torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)[None]


def _cut(x: Tensor) -> Tensor:
    h, w = x.shape[2] // 2, x.shape[3] // 2
    return torch.cat([x[..., r : r + h, c : c + w] for r in (0, h) for c in (0, w)])


def _tokens(x: Tensor) -> Tensor:
    """Map (B, C, h, w) to (h·w, B, C), the layout of ``nn.MultiheadAttention``."""
    return x.flatten(2).permute(2, 0, 1)


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with one head, (L, B, C), by PyTorch's function, with the averaged weights."""
    out, _ = F.multi_head_attention_forward(
        query, key, value, query.shape[2], 1, attention.in_proj_weight, attention.in_proj_bias, None, None, False, 0.0,
        attention.out_proj.weight, attention.out_proj.bias, training=False, need_weights=True, average_attn_weights=True,
    )  # fmt: skip
    return out


def _ffn(mlp: Any, x: Tensor) -> Tensor:
    out: Tensor = mlp.fc2(mlp.act(mlp.fc1(x)))
    return out


def _sine(height: int, width: int, channels: int) -> Tensor:
    """Return (h·w, 1, C): DETR's encoding, normalised, from cumulative sums."""
    ones = torch.ones(1, height, width)
    axes = []
    for dim in (1, 2):
        place = (ones.cumsum(dim) - 0.5) / (ones.cumsum(dim).select(dim, -1).unsqueeze(dim) + 1e-6) * 2 * torch.pi
        channel = torch.arange(channels // 2)
        angle = place[..., None] / 10000 ** (2 * (channel // 2) / (channels // 2))
        axes.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(3))
    return torch.cat(axes, -1).flatten(1, 2).transpose(0, 1)


def _pooled(x: Tensor, sides: list[float], *, with_places: bool = False) -> tuple[Tensor, Tensor]:
    grids = [F.adaptive_avg_pool2d(x, round(side)) for side in sides if round(side) > 0]
    places = [_sine(*grid.shape[-2:], x.shape[1]) if with_places else torch.zeros(1) for grid in grids]
    return torch.cat([_tokens(grid) for grid in grids]), torch.cat(places)


def _mclm(m: Any, x: Tensor) -> Tensor:
    _, channels, h, w = x.shape
    pooled, places = _pooled(_stitch(x[:4]), [h, h / 4, h / 8], with_places=True)
    g = _tokens(x[4:])
    g = m.norm1(g + _attend(m.attend_pools, g + _sine(h, w, channels).to(g), pooled + places.to(g), pooled))
    g = m.norm2(g + _ffn(m.ffn_global, g))
    overview = g.permute(1, 2, 0).unflatten(2, (h, w))
    local = []
    for view, quarter, attention in zip(x[:4], _cut(overview), m.attend_quarters, strict=True):
        own, context = _tokens(view[None]), _tokens(quarter[None])
        own = m.norm1(own + _attend(attention, own, context, context))
        local.append(m.norm2(own + _ffn(m.ffn_local, own)).permute(1, 2, 0).unflatten(2, (h, w)))
    return torch.cat([*local, overview])


def _mcrm(m: Any, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    overview = x[4:]
    salient = F.interpolate(torch.sigmoid(m.saliency(overview)), scale_factor=2, mode="nearest")
    dimmed = x[:4] * _cut(salient)
    local = []
    for view, quarter, attention in zip(dimmed, _cut(overview), m.attend_quarters, strict=True):
        own, (context, _) = _tokens(view[None]), _pooled(quarter[None], [h / 2, h / 4, h / 8])
        own = m.norm1(own + _attend(attention, own, context, context))
        local.append(m.norm2(own + _ffn(m.ffn, own)).permute(1, 2, 0).unflatten(2, (h, w)))
    sharper = torch.cat(local)
    return torch.cat([sharper, overview + F.interpolate(_stitch(sharper), size=(h, w), mode="nearest")])


def _swin(swin: Any, x: Tensor) -> list[Tensor]:
    x = swin.patch_embed.norm(swin.patch_embed.proj(x).permute(0, 2, 3, 1))
    features = [x]
    for stage, norm in zip(swin.layers, swin.norms, strict=True):
        for block in stage.blocks:
            x = x + _window_attention(block.attn, block.norm1(x))
            x = x + _ffn(block.mlp, block.norm2(x))
        features.append(norm(x))
        if stage.downsample is not None:
            x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
            x = stage.downsample.reduction(stage.downsample.norm(x))
    return [feature.permute(0, 3, 1, 2).contiguous() for feature in features]


def _windows(x: Tensor, side: int) -> Tensor:
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)


def _window_attention(attn: Any, x: Tensor) -> Tensor:
    side, shift, heads = attn.window, attn.shift, attn.heads
    batch, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    tall, wide = x.shape[1:3]
    x = _windows(x.roll((-shift, -shift), (1, 2)), side)
    q, k, v = attn.qkv(x).reshape(len(x), side * side, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)  # (windows, heads, L, L)
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
    apart = place[:, :, None] - place[:, None, :] + side - 1
    bias = attn.relative_position_bias_table[apart[0] * (2 * side - 1) + apart[1]]
    scores = scores + bias.permute(2, 0, 1)
    if shift:
        region = torch.zeros(1, tall, wide, 1)
        spans = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
        for number, (rows, columns) in enumerate((rows, columns) for rows in spans for columns in spans):
            region[:, rows, columns] = number
        region = _windows(region, side)[..., 0]
        mask = (region[:, None] != region[:, :, None]).to(scores) * -100.0  # (windows a map, L, L)
        scores = (scores.unflatten(0, (batch, -1)) + mask[:, None]).flatten(0, 1)
    x = (scores.softmax(-1) @ v).transpose(1, 2).reshape(len(scores), side * side, channels)
    x = attn.proj(x).view(batch, tall // side, wide // side, side, side, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, tall, wide, channels)
    return x.roll((shift, shift), (1, 2))[:, :height, :width]
