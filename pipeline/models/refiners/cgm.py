"""Confidence-guided matting: a small network recomputes alpha in the unknown region, at the image's own size.

The idea is BEN's (arXiv 2501.06230): refine where the base model is unsure. BEN's refiner is not public; this network, its
inputs and its training (``pipeline.training.refiner``) are our own. From the photo, the base's alpha enlarged, ``guided``'s
alpha and the scale it predicts a correction of ``guided``. It is a U-Net of three levels without normalisation, as is best for
image restoration (Lim et al., arXiv 1707.02921): a pixel's result does not depend on the statistics of its tile.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.refiners.guided import HALO_CELLS, apply_both, as_colours, interpolation, on_device, refine_guided
from pipeline.models.refiners.refine_tiles import Tile
from pipeline.models.tensors import load_tensors, open_matching
from pipeline.paths import WEIGHTS

BUNDLED = WEIGHTS / "cgm.safetensors"
"""The weights in the package, made by ``make train-refiner``; ``cgm.md`` beside them is their model card."""

WIDTHS = (32, 64, 96)
"""Channels at a half, a quarter and an eighth of the image's size."""

STEP_PX = 8
"""Pixels per cell of the coarsest level. Tiles start and end on it, so that a pixel's result is the same in any tile."""

HALO_PX = 48
"""Margin around a tile. The outermost of its 70 pixels of sight change alpha by at most 0.004, by 1e-5 on average."""

BASE, WEIGHT, GUIDED = 3, 4, 5
"""Input channels of the base's alpha, the unknown map and guided's alpha."""

SCALE_BITS = 3.0
"""Divisor of log2(scale) in the input: an enlargement of 8 is 1."""


class Cgm(nn.Module):
    """The network that predicts the correction of ``guided``'s alpha."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(7 * 4, fine, 3, 1, 1)
        self.fine = ResidualBlock(fine)
        self.to_middle = nn.Conv2d(fine, middle, 4, 2, 1)
        self.middle = ResidualBlock(middle)
        self.to_coarse = nn.Conv2d(middle, coarse, 4, 2, 1)
        self.coarse = nn.Sequential(ResidualBlock(coarse), ResidualBlock(coarse))
        self.from_coarse = nn.Conv2d(coarse, middle * 4, 1)
        self.middle_again = ResidualBlock(middle)
        self.from_middle = nn.Conv2d(middle, fine * 4, 1)
        self.fine_again = ResidualBlock(fine)
        self.head = nn.Conv2d(fine, 4, 3, 1, 1)
        nn.init.zeros_(self.head.weight)  # untrained, it equals guided
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 7, H, W) from ``stack_inputs``, H and W multiples of ``STEP_PX``, to the correction (N, H, W)."""
        half = self.fine(self.stem(F.pixel_unshuffle(x, 2)))  # (N, 32, H/2, W/2)
        quarter = self.middle(F.relu(self.to_middle(half)))  # (N, 64, H/4, W/4)
        eighth = self.coarse(F.relu(self.to_coarse(quarter)))  # (N, 96, H/8, W/8)
        quarter = self.middle_again(quarter + F.pixel_shuffle(self.from_coarse(eighth), 2))
        half = self.fine_again(half + F.pixel_shuffle(self.from_middle(quarter), 2))
        change: Tensor = F.pixel_shuffle(self.head(half), 2)[:, 0]
        return change


class ResidualBlock(nn.Module):
    """Two convolutions with a residual connection: x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to the same shape."""
        changed: Tensor = x + self.second(F.relu(self.first(x)))
        return changed


def load_cgm(path: Path, *, device: torch.device, dtype: torch.dtype) -> Cgm:
    """Load the network for inference.

    Raises:
        WeightsError: Not a weights file, not this network's, or with numbers that are not finite.
    """
    network = Cgm()
    load_tensors(network, _open(path, network), path, dtype)
    return network.to(device=device, dtype=dtype).eval().requires_grad_(False)


def check_cgm(path: Path) -> None:
    """Check a file's keys and shapes without reading its numbers.

    Raises:
        WeightsError: Not a weights file, or not this network's.
    """
    with torch.device("meta"):
        network = Cgm()
    _open(path, network)


def _open(path: Path, network: Cgm) -> dict[str, Tensor]:
    fix = "leave recipe.refiner_weights empty for the bundled weights, or train with python -m pipeline.training.refiner"
    return open_matching(path, network, "cgm", fix)


def stack_inputs(image: Tensor, p: Tensor, weight: Tensor, guided: Tensor, scale: Tensor) -> Tensor:
    """Stack the network's input (N, 7, H, W).

    Args:
        image: (N, 3, H, W) in [0, 1].
        p: (N, H, W): the base's alpha, enlarged.
        weight: (N, H, W): the unknown map, enlarged.
        guided: (N, H, W): guided's alpha in [0, 1].
        scale: (N,): image pixels per frame pixel.
    """
    log_scale = (scale.log2() / SCALE_BITS)[:, None, None].expand_as(p)
    return torch.cat([image, torch.stack([p, weight, guided, log_scale], 1)], 1)


def tile_inputs(
    image: Tensor, frame: Tensor, p: Tensor, unknown: Tensor, down: Tensor, across: Tensor, scale: Tensor
) -> Tensor:
    """Return the network's input (7, H, W) for a tile, in training as in inference."""
    guided, weight = refine_guided(image, frame, p, unknown, down, across, scale)
    base = apply_both(interpolation(down, p.shape[0]), p, interpolation(across, p.shape[1]))
    return stack_inputs(as_colours(image)[None], base[None], weight[None], guided[None], scale.float())[0]


def refine_cgm(network: Cgm, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Compute a tile from its ``tile_inputs``, with the network in ``dtype``; see ``Refiner``."""
    change = network(x[None].to(dtype).contiguous(memory_format=torch.channels_last))[0].float()
    return (x[GUIDED] + change).clamp(0, 1), x[WEIGHT]


class ConfidenceGuided:
    """The refiner ``cgm``.

    Args:
        network: On the device of the frames.
        dtype: Precision of the network; guided's part stays float32.
    """

    halo_cells, halo_px, step_px = HALO_CELLS, HALO_PX, STEP_PX

    def __init__(self, network: Cgm, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.dtype = network.eval().to(dtype).to(memory_format=torch.channels_last), dtype

    @torch.inference_mode()
    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """See ``Refiner``."""
        return refine_cgm(self.network, tile_inputs(*on_device(tile)), self.dtype)
