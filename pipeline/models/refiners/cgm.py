"""Confidence-guided matting: a small network that draws alpha anew in the band, at the image's own size.

The idea is BEN's (arXiv 2501.06230): a base that says where it is unsure, and a refiner for there. Their refiner isn't
public; this network, its inputs and its training (``pipeline.training``) are our own. It sees the photo, the base's alpha
enlarged, what ``guided`` makes of it and how far it is enlarged, and adds to guided's answer what it has learned that this
lacks. It is a U-Net of three levels without normalisation, as networks that restore images are best (Lim et al., arXiv
1707.02921): what it says of a pixel doesn't hang on the tile around it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import to_device
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Axis, Draw, Drawing, View, enlarged
from pipeline.models.tensors import fill, matched
from pipeline.paths import WEIGHTS

BUNDLED = WEIGHTS / "cgm.safetensors"
"""The weights in the package, made by ``make train-refiner``; ``cgm.md`` beside them says of what."""

WIDTHS = (32, 64, 96)
"""Channels at a half, a quarter and an eighth of the image's size."""

STEP_PX = 8
"""Its coarsest grid: tiles start and end on it, so that a pixel is seen in the same way from any tile."""

HALO_PX = 48
"""How far around a tile it looks. Of its 70 pixels of sight the outermost change alpha by 0.004 at most, 1e-5 in the mean."""

BASE, WEIGHT, GUIDED = 3, 4, 5
"""Which of its inputs are the base's alpha, the band and guided's alpha."""

SCALE_BITS = 3.0
"""The enlargement is told as log2(scale) over this: 8 times is 1."""


class Cgm(nn.Module):
    """What has to be added to an alpha."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Conv2d(7 * 4, fine, 3, 1, 1)
        self.fine = Pair(fine)
        self.to_middle = nn.Conv2d(fine, middle, 4, 2, 1)
        self.middle = Pair(middle)
        self.to_coarse = nn.Conv2d(middle, coarse, 4, 2, 1)
        self.coarse = nn.Sequential(Pair(coarse), Pair(coarse))
        self.from_coarse = nn.Conv2d(coarse, middle * 4, 1)
        self.middle_again = Pair(middle)
        self.from_middle = nn.Conv2d(middle, fine * 4, 1)
        self.fine_again = Pair(fine)
        self.head = nn.Conv2d(fine, 4, 3, 1, 1)
        nn.init.zeros_(self.head.weight)  # it starts as guided
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, seen: Tensor) -> Tensor:
        """(N, 7, H, W) as ``inputs`` gives it, H and W multiples of ``STEP_PX``, to (N, H, W) to be added to guided's alpha."""
        half = self.fine(self.stem(F.pixel_unshuffle(seen, 2)))  # (N, 32, H/2, W/2)
        quarter = self.middle(F.relu(self.to_middle(half)))  # (N, 64, H/4, W/4)
        eighth = self.coarse(F.relu(self.to_coarse(quarter)))  # (N, 96, H/8, W/8)
        quarter = self.middle_again(quarter + F.pixel_shuffle(self.from_coarse(eighth), 2))
        half = self.fine_again(half + F.pixel_shuffle(self.from_middle(quarter), 2))
        change: Tensor = F.pixel_shuffle(self.head(half), 2)[:, 0]
        return change


class Pair(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.second(F.relu(self.first(x)))
        return changed


def load_cgm(path: Path, *, device: torch.device, dtype: torch.dtype) -> Cgm:
    """The network with a file's weights, for inference.

    Raises:
        WeightsError: not a weights file, not this network's, or with numbers that are not finite.
    """
    network = Cgm()
    fill(network, _matched(path, network), path, dtype)
    return network.to(device=device, dtype=dtype).eval().requires_grad_(False)


def check_cgm(path: Path) -> None:
    """Refuse a file by its keys and shapes alone.

    Raises:
        WeightsError: not a weights file, or not this network's.
    """
    with torch.device("meta"):
        network = Cgm()
    _matched(path, network)


def _matched(path: Path, network: Cgm) -> dict[str, Tensor]:
    mend = "leave recipe.refiner_weights empty for the bundled weights, or train some with python -m pipeline.training.refiner"
    return matched(path, network, "cgm's", mend)


def inputs(image: Tensor, p: Tensor, weight: Tensor, guided: Tensor, scale: Tensor) -> Tensor:
    """What the network sees: (N, 7, H, W).

    Args:
        image: (N, 3, H, W) in [0, 1].
        p: (N, H, W) the base's alpha, enlarged.
        weight: (N, H, W) the band, enlarged.
        guided: (N, H, W) guided's alpha in [0, 1].
        scale: (N,) pixels of the image for one of the frame.
    """
    told = (scale.log2() / SCALE_BITS)[:, None, None].expand_as(p)
    return torch.cat([image, torch.stack([p, weight, guided, told], 1)], 1)


def look(view: View, guided: Draw, down: Axis, across: Axis) -> Tensor:
    """What the network sees of some rows and columns of an image, in training as in use: (7, h, w)."""
    image = to_device(view.image[down.pixels, across.pixels], view.p.device).permute(2, 0, 1).float() / 255
    p, weight, drawn = enlarged(view.p, down, across), enlarged(view.unknown, down, across), guided(down, across).clamp_(0, 1)
    scale = torch.full((1,), view.scale, device=view.p.device)
    return inputs(image[None], p[None], weight[None], drawn[None], scale)[0]


class ConfidenceGuided:
    """The refiner ``cgm``.

    Args:
        network: on the device of the frames.
        dtype: what it computes in; guided's part stays float32.
    """

    halo_cells = Guided.halo_cells

    def __init__(self, network: Cgm, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.dtype = network.eval().to(dtype).to(memory_format=torch.channels_last), dtype

    def start(self, view: View) -> Drawing:
        """See ``Refiner``."""
        guided = Guided().start(view).draw

        def draw(down: Axis, across: Axis) -> Tensor:
            tile = down.pixels, across.pixels
            rows, columns = padded_tile(tile[0], view, 1), padded_tile(tile[1], view, 0)
            down, across = view.axis(rows, 1, self.halo_cells), view.axis(columns, 0, self.halo_cells)
            seen = look(view, guided, down, across)
            height, width = seen.shape[1:]
            padded = F.pad(seen[None], (0, -width % STEP_PX, 0, -height % STEP_PX), mode="replicate")
            change = self.network(padded.to(self.dtype).contiguous(memory_format=torch.channels_last))[0].float()
            top, left = tile[0].start - rows.start, tile[1].start - columns.start
            drawn: Tensor = seen[GUIDED] + change[:height, :width]
            return drawn[top : top + tile[0].stop - tile[0].start, left : left + tile[1].stop - tile[1].start]

        return Drawing(draw)


def padded_tile(pixels: slice, view: View, dim: int) -> slice:
    """Some rows (``dim`` 1) or columns (0) with the halo, on the coarsest grid, and no more than the frame shows."""
    first, last = view.inside[dim], view.inside[dim + 2]
    start = (pixels.start - first - HALO_PX) // STEP_PX * STEP_PX
    stop = -(-(pixels.stop - first + HALO_PX) // STEP_PX) * STEP_PX
    return slice(first + max(start, 0), min(first + stop, last))
