"""MVANet: four quarters at full size and one overview, processed together (arXiv 2404.07445; BEN2's variant: arXiv 2501.06230).

An image becomes five views: its four quarters at full size, row by row, then the complete image at half size. All five pass
through the same backbone. In the decoder the overview locates the object (MCLM) and the quarters refine its edge (MCRM). The
quarters are stitched and upsampled with the help of the frame's own pixels.

A tensor of views is (N, 5, h, w, C): images first, so that images of a batch are independent, and channels last, so that a map
is a sequence of tokens and nothing moves in memory between convolution and attention.
The three published networks and the bundled small one are ``Variant``s of one network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.mvanet.backbones import Backbone, make_backbone
from pipeline.models.mvanet.shape_cache import cache_by_shape
from pipeline.models.mvanet.swin import MapNorm, Mlp
from pipeline.models.mvanet.upsample import conv_phases, conv_upsampled, interleave, normalise_phases

LOCAL = 4
"""Views 0..3 are the quarters: top left, top right, bottom left, bottom right. View 4 is the overview."""

Act = Literal["gelu", "prelu", "relu"]

ACTS: dict[Act, type[nn.Module]] = {"gelu": nn.GELU, "prelu": nn.PReLU, "relu": nn.ReLU}


@dataclass(frozen=True)
class Variant:
    """The differences between the networks: everything that determines a network but its weights."""

    norm: Literal["instance", "batch"]
    act: Act
    ffn_act: Literal["gelu", "relu"]
    upsample_act: Act = "gelu"
    backbone: str = "swin_b"
    """See ``make_backbone``."""
    dim: int = 128
    """Channels of the decoder."""
    merge: int = 3
    """Width of the merge head, as a multiple of ``dim``."""
    pools: tuple[int, ...] = (2, 4, 8)
    """Divisors of a map's side: the sizes of the grids that the quarters attend to in an MCRM."""


BEN2 = Variant(norm="instance", act="gelu", ffn_act="gelu")
MVANET = Variant(norm="batch", act="prelu", ffn_act="relu")
LITE = Variant(
    norm="batch",
    act="relu",
    ffn_act="relu",
    upsample_act="relu",
    backbone="tf_efficientnet_lite0",
    dim=48,
    merge=2,
    pools=(4, 8, 16),
)
"""The bundled network: a narrow decoder, cheap activations, and a quarter of the attention."""


def cut(whole: Tensor) -> Tensor:
    """Cut (N, 2h, 2w, C) into its quarters (N, 4, h, w, C)."""
    batch, height, width, channels = whole.shape
    return whole.reshape(batch, 2, height // 2, 2, width // 2, channels).transpose(2, 3).flatten(1, 2)


def stitch(quarters: Tensor) -> Tensor:
    """Stitch quarters (N, 4, h, w, C) to (N, 2h, 2w, C)."""
    batch, _, height, width, channels = quarters.shape
    grid = quarters.reshape(batch, 2, 2, height, width, channels)
    return grid.transpose(2, 3).reshape(batch, 2 * height, 2 * width, channels)


def to_nchw(x: Tensor) -> Tensor:
    """View (N, h, w, C) as (N, C, h, w), PyTorch's order for maps; nothing moves in memory."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """View (N, C, h, w) as (N, h, w, C)."""
    return x.permute(0, 2, 3, 1)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize (N, C, h, w) to the height and width of ``like`` (N, C, H, W), bilinear."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def by_image(views: Tensor) -> Tensor:
    """View (N·5, h, w, C) as (N, 5, h, w, C)."""
    return views.reshape(-1, LOCAL + 1, *views.shape[1:])


def pool_grids(x: Tensor, sides: Sequence[float]) -> list[Tensor]:
    """Average (N, h, w, C) down to square grids (N, side, side, C).

    Sides are rounded half to even, as upstream does. A side that rounds to zero, on small frames, is left out.
    """
    return [to_nhwc(pool(to_nchw(x), round(side))) for side in sides if round(side) > 0]


def pool(x: Tensor, side: int) -> Tensor:
    """Apply ``adaptive_avg_pool2d``, (N, C, h, h) to (N, C, side, side), by plain pooling where that is equal and faster."""
    step, rest = divmod(x.shape[-1], side)
    if rest:
        return F.adaptive_avg_pool2d(x, side)
    return x if step == 1 else F.avg_pool2d(x, step)


@cache_by_shape
def positions(height: int, width: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Compute the sine position encoding of a grid, as in DETR (arXiv 2005.12872) but with pixel centres.

    Returns:
        (h·w, C): C/2 channels of y, then C/2 of x; sine on even and cosine on odd channels, frequencies in pairs.
    """
    channel = torch.arange(channels // 2, device=device)
    period = 10000 ** (2 * (channel // 2) / (channels // 2))  # (C/2,)

    def encode(side: int) -> Tensor:
        place = (torch.arange(side, device=device) + 0.5) / (side + 1e-6) * 2 * math.pi  # (side,)
        angle = place[:, None] / period  # (side, C/2)
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    y = encode(height)[:, None].expand(-1, width, -1)  # (h, w, C/2)
    x = encode(width)[None].expand(height, -1, -1)  # (h, w, C/2)
    return torch.cat([y, x], -1).flatten(0, 1).to(dtype)


class InstanceNorm(nn.Module):
    """Instance norm without parameters, as layer norm over every channel's plane.

    ``nn.InstanceNorm2d`` merges images and channels into one axis, for which OpenVINO moves the complete map in memory.
    """

    eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        return F.layer_norm(x, x.shape[2:], eps=self.eps)


class ConvBlock(nn.Module):
    """Convolution 3×3, norm, activation."""

    def __init__(self, inputs: int, outputs: int, variant: Variant, act: Act | None = None, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.norm: nn.Module = InstanceNorm() if variant.norm == "instance" else nn.BatchNorm2d(outputs)
        self.act = ACTS[act or variant.act]()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, h/stride, w/stride)."""
        x = self.act(self.norm(self.conv(x)))
        return x


class Upsample(ConvBlock):
    """Nearest 2× upsampling and a convolution block, computed on the small map (see ``upsample``)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, h, w) to (N, outputs, 2h, 2w)."""
        return interleave(self.phases(x))

    def phases(self, x: Tensor) -> list[Tensor]:
        """Compute the result's four phases: (N, inputs, h, w) to 4 × (N, outputs, h, w)."""
        parts = conv_upsampled(x, self.conv.weight, self.conv.bias)
        # Instance norms, and batch norms in training, need statistics of the complete map, not of each phase.
        if isinstance(self.norm, InstanceNorm):
            parts = normalise_phases(parts, self.norm.eps)
        elif self.training:
            parts = list(self.norm(torch.cat(parts)).chunk(4))
        else:
            parts = [self.norm(part) for part in parts]
        return [self.act(part) for part in parts]


class CrossAttention(nn.Module):
    """Attention with one head, with parameters named as in ``nn.MultiheadAttention``.

    That module is not used because it builds the matrix of weights: 16384 × 5376 per view at 1024².
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from query (N, Q, C) to key and value (N, K, C), to (N, Q, C)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias)[:, None]  # (N, 1, Q or K, C)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        x: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v)[:, 0])  # (N, Q, C)
        return x


def attend_by_view(attention: nn.ModuleList, local: Tensor, context: Tensor) -> Tensor:
    """Attend from each quarter's tokens (N, 4, Q, C) to its own context (N, 4, K, C), with its own weights."""
    views = zip(attention, local.unbind(1), context.unbind(1), strict=True)
    return torch.stack([attend(query, tokens, tokens) for attend, query, tokens in views], 1)  # (N, 4, Q, C)


class MCLM(nn.Module):
    """Multi-view complementary localisation: the overview attends to the quarters, then the quarters to the overview."""

    def __init__(self, dim: int, ffn_act: Literal["gelu", "relu"]) -> None:
        super().__init__()
        act = F.gelu if ffn_act == "gelu" else F.relu
        self.attend_pools = CrossAttention(dim)
        self.attend_quarters = nn.ModuleList(CrossAttention(dim) for _ in range(LOCAL))
        self.ffn_global = Mlp(dim, 2 * dim, act)
        self.ffn_local = Mlp(dim, 2 * dim, act)
        self.norm1 = MapNorm(dim)
        self.norm2 = MapNorm(dim)

    def forward(self, views: Tensor) -> Tensor:
        """Map (N, 5, h, w, C) to the same shape, h and w even."""
        height, width, channels = views.shape[2:]
        encoding = functools.partial(positions, channels=channels, device=views.device, dtype=views.dtype)
        local, overview = views[:, :LOCAL], views[:, LOCAL].flatten(1, 2)  # (N, 4, h, w, C), (N, h·w, C)

        grids = pool_grids(stitch(local), [height, height / 4, height / 8])
        pooled = torch.cat([grid.flatten(1, 2) for grid in grids], 1)  # (N, K, C)
        pooled_encoding = torch.cat([encoding(*grid.shape[1:3]) for grid in grids])  # (K, C)
        attended = self.attend_pools(overview + encoding(height, width), pooled + pooled_encoding, pooled)
        overview = self.norm1(overview + attended)  # (N, h·w, C)
        overview = self.norm2(overview + self.ffn_global(overview))
        overview = overview.unflatten(1, (height, width))  # (N, h, w, C)

        local = local.flatten(2, 3)  # (N, 4, h·w, C)
        local = self.norm1(local + attend_by_view(self.attend_quarters, local, cut(overview).flatten(2, 3)))
        local = self.norm2(local + self.ffn_local(local)).unflatten(2, (height, width))
        return torch.cat([local, overview[:, None]], 1)  # (N, 5, h, w, C)


class MCRM(nn.Module):
    """Multi-view complementary refinement: the overview dims the background, the quarters refine the rest."""

    def __init__(self, dim: int, ffn_act: Literal["gelu", "relu"], pools: Sequence[int] = (2, 4, 8)) -> None:
        super().__init__()
        self.pools = tuple(pools)
        self.saliency = nn.Conv2d(dim, 1, 1)
        self.attend_quarters = nn.ModuleList(CrossAttention(dim) for _ in range(LOCAL))
        self.ffn = Mlp(dim, 2 * dim, F.gelu if ffn_act == "gelu" else F.relu)
        self.norm1 = MapNorm(dim)
        self.norm2 = MapNorm(dim)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 5, h, w, C), h and w even, to the same shape and the object's saliency as logits (N, 1, h, w)."""
        batch, _, height, width, channels = views.shape
        local, overview = views[:, :LOCAL], views[:, LOCAL]  # (N, 4, h, w, C), (N, h, w, C)

        saliency = self.saliency(to_nchw(overview))  # (N, 1, h, w)
        factor = F.interpolate(saliency.sigmoid(), scale_factor=2, mode="nearest")  # (N, 1, 2h, 2w)
        local = (local * cut(to_nhwc(factor))).flatten(2, 3)  # (N, 4, h·w, C)

        grids = pool_grids(cut(overview).flatten(0, 1), [height / by for by in self.pools])
        context = torch.cat([grid.flatten(1, 2) for grid in grids], 1).reshape(batch, LOCAL, -1, channels)  # (N, 4, K, C)
        local = self.norm1(local + attend_by_view(self.attend_quarters, local, context))
        local = self.norm2(local + self.ffn(local)).unflatten(2, (height, width))  # (N, 4, h, w, C)

        overview = overview + stitch(local)[:, ::2, ::2]  # nearest to half size takes every second pixel
        return torch.cat([local, overview[:, None]], 1), saliency  # (N, 5, h, w, C), (N, 1, h, w)


class DecoderFeatures(NamedTuple):
    """The decoder's maps, coarsest first; training has a loss on each."""

    maps: list[Tensor]
    """(N·5, C, h, w) after the MCLM and after every MCRM: h is S/64, S/64, S/32, S/16, S/8, S/8."""
    saliency: list[Tensor]
    """Logits (N, 1, h, w) of every MCRM."""


class MVANet(nn.Module):
    """The complete network.

    Args:
        variant: Norms, activations and widths.
        backbone: Source of the decoder's five features; default: the variant's.
    """

    def __init__(self, variant: Variant, backbone: Backbone | None = None) -> None:
        super().__init__()
        dim, wide = variant.dim, variant.merge * variant.dim
        self.backbone = make_backbone(variant.backbone) if backbone is None else backbone
        self.lateral = nn.ModuleList(
            ConvBlock(channels, dim, variant, stride=stride)
            for channels, stride in zip(self.backbone.channels, self.backbone.strides, strict=True)
        )
        self.mclm = MCLM(dim, variant.ffn_act)
        self.mcrm = nn.ModuleList(MCRM(dim, variant.ffn_act, variant.pools) for _ in self.lateral[1:])
        self.smooth = nn.ModuleList(ConvBlock(dim, dim, variant) for _ in self.mcrm)
        self.merge = nn.Sequential(
            ConvBlock(dim, wide, variant), ConvBlock(wide, wide, variant), nn.Conv2d(wide, dim, 3, padding=1)
        )
        self.shallow = nn.Conv2d(3, dim, 3, padding=1)
        self.upsample1 = Upsample(dim, dim, variant, act=variant.upsample_act)
        self.upsample2 = Upsample(dim, dim, variant, act=variant.upsample_act)
        self.output = nn.Conv2d(dim, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict the logits of a batch of frames.

        Args:
            x: (N, 3, S, S), normalised RGB; S is a multiple of 128.

        Returns:
            (N, 1, S, S).
        """
        logits: Tensor = self.predict(x, self.decode(x).maps[-1])
        return logits

    def decode(self, x: Tensor) -> DecoderFeatures:
        """Run the five views of frames (N, 3, S, S) through backbone and decoder."""
        overview = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)  # (N, 3, S/2, S/2)
        views = torch.cat([cut(to_nhwc(x)), to_nhwc(overview)[:, None]], 1).flatten(0, 1)  # (N·5, S/2, S/2, 3)
        backbone = zip(self.lateral, self.backbone(to_nchw(views)), strict=True)  # 5 × (N·5, c, h, w)
        features = [lateral(feature) for lateral, feature in backbone]  # 5 × (N·5, C, h, w)

        maps = to_nchw(self.mclm(by_image(to_nhwc(features[-1]))).flatten(0, 1))  # (N·5, C, S/64, S/64)
        decoded = DecoderFeatures([maps], [])
        for level in range(len(self.mcrm) - 1, -1, -1):
            maps = features[level] + resize(maps, like=features[level])  # (N·5, C, h, w)
            views, saliency = self.mcrm[level](by_image(to_nhwc(maps)))  # (N, 5, h, w, C)
            maps = self.smooth[level](to_nchw(views.flatten(0, 1)))  # (N·5, C, h, w)
            decoded.maps.append(maps)
            decoded.saliency.append(saliency)
        return decoded

    def predict(self, x: Tensor, maps: Tensor) -> Tensor:
        """Stitch the decoder's last maps (N·5, C, S/8, S/8), and upsample them with the frame's pixels to (N, 1, S, S)."""
        views = by_image(to_nhwc(maps))  # (N, 5, S/8, S/8, C)
        whole = to_nchw(stitch(views[:, :LOCAL]))  # (N, C, S/4, S/4)
        whole = self.merge(whole + resize(to_nchw(views[:, LOCAL]), like=whole))  # (N, C, S/4, S/4)

        whole = whole + self.shallow_reduced(x, 4)  # (N, C, S/4, S/4)
        whole = self.upsample1(whole)  # (N, C, S/2, S/2)
        whole = whole + self.shallow_reduced(x, 2)  # (N, C, S/2, S/2)
        return conv_phases(self.upsample2.phases(whole), self.output.weight, self.output.bias)  # (N, 1, S, S)

    def shallow_reduced(self, x: Tensor, by: Literal[2, 4]) -> Tensor:
        """Compute ``bilinear(shallow(x))`` at S/by, (N, C, S/by, S/by), without the map (N, C, S, S).

        Bilinear reduction by an even factor averages the two middle pixels of every ``by`` along each axis. The mean of four
        shifted 3×3 kernels is one 4×4 kernel, which starts at pixel ``by/2 - 2``.
        """
        shifts = [(left, 1 - left, top, 1 - top) for top in (0, 1) for left in (0, 1)]
        kernel = torch.stack([F.pad(self.shallow.weight, shift) for shift in shifts]).mean(0)  # (C, 3, 4, 4)
        return F.conv2d(x, kernel, self.shallow.bias, stride=by, padding=2 - by // 2)
