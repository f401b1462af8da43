"""ViTMatte (Yao et al., arXiv 2305.15272) on the band, tile by tile (needs ``pip install 'matteline[vitmatte]'``).

A vision transformer is shown a tile of the image with its trimap: 0 where the base is sure of background, 255 where it is
sure of the object, 128 in the band. Outside the band the base's alpha stays, whatever the network says there.

**Its weights are the user's to choose and to answer for.** Nothing is downloaded that wasn't named. The published
checkpoints' cards say Apache-2.0, but those named ``composition-1k`` were trained on Adobe's Deep Image Matting data, whose
terms allow models made from it for research only, and what ``distinctions-646`` may be used for isn't clear. So
``recipe.refiner_licence``, the terms under which the user has the weights, is required, and ends up in ``recipe.json``.

**How its input is normalised** isn't agreed on. The weights were trained with ImageNet's mean and deviation
(hustvl/ViTMatte, ``configs/common/model.py``) and converted unchanged. transformers' ``VitMatteImageProcessor`` and the
published ``preprocessor_config.json`` say 0.5 and 0.5, which was never compared with the original (the conversion script:
"TODO use processor"). Hence ``recipe.refiner_normalise``: ``imagenet`` as it was trained, or ``half`` as transformers has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.models.forward import to_device
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import Drawing, View
from pipeline.models.refiners.tiles import Piece, Tile, blend, on_host, tiles

TILE_PX = {"cpu": 512, "cuda": 1024}
"""Side of a tile. It was trained on crops of 512, and attention over a whole tile grows with the fourth power of its side."""

OVERLAP = 0.25
"""Of neighbouring tiles, as a share of their side."""

ATTENTION_BYTES = {"cpu": 0, "cuda": 3 * 10**9}
"""For the attention maps of the tiles that go through at once; one tile goes whatever it takes (1.2 GB for the small network on
1024² in float32, 2.4 GB for the base one). On a CPU more than one only take memory."""

MOST_TILES = 8
"""At once: their images and trimaps wait on the host."""

SIDE_STEP = 32
"""Tiles are padded to a multiple with zeros, as transformers' processor pads them."""

SURE_SHARE = 0.01
"""Of a tile must be known: where all is unknown, the network has nothing to go by."""

FOREGROUND, UNKNOWN = 255, 128

NORMALISE = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}
"""``recipe.refiner_normalise`` as mean and deviation of colours in [0, 1]."""


class VitMatte:
    """The refiner that looks.

    Args:
        network: as ``load_vitmatte`` gives it.
        normalise: a key of ``NORMALISE``.
    """

    halo_cells = Guided.halo_cells

    def __init__(self, network: nn.Module, normalise: str, device: torch.device, dtype: torch.dtype) -> None:
        self.network: Callable[[Tensor], Any] = network
        self.device, self.dtype, self.guided = device, dtype, Guided()
        self.side = TILE_PX[device.type]
        mean, std = NORMALISE[normalise]
        self.mean, self.std = (torch.tensor(three, device=device).reshape(1, 3, 1, 1) for three in (mean, std))
        self.at_once = tiles_at_once(network, self.side, ATTENTION_BYTES[device.type])

    def start(self, view: View) -> Drawing:
        """See ``Refiner``."""
        waiting = tiles(on_host(view), self.side, int(self.side * OVERLAP), self.halo_cells)
        pieces: list[Piece] = []
        seen = 0
        while some := list(islice(waiting, self.at_once)):
            seen += len(some)
            told = [tile for tile in some if tile.unknown.mean() <= 1 - SURE_SHARE]
            if told:
                answers = self(np.stack([with_trimap(tile) for tile in told]))
                pieces += [Piece(tile.rows, tile.columns, alpha) for tile, alpha in zip(told, answers, strict=True)]
        left = seen - len(pieces)
        note = f"vitmatte left {left} of {seen} tiles to guided: the model was sure of nothing in them" if left else None
        return Drawing(blend(pieces, self.guided.start(view).draw), note)

    @torch.inference_mode()
    def __call__(self, planes: npt.NDArray[np.uint8]) -> Sequence[Tensor]:
        """Alpha of tiles of one shape.

        Args:
            planes: (N, h, w, 4) uint8, RGB and trimap.

        Returns:
            (h, w) float32 in [0, 1] on the device each.
        """
        height, width = planes.shape[1:3]
        x = network_input(to_device(planes, self.device), self.mean, self.std)
        alphas: Tensor = self.network(x.to(self.dtype)).alphas
        return list(alphas[:, 0, :height, :width].float())


def network_input(planes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(N, h, w, 4) uint8 to (N, 4, H, W) float32, padded at the right and at the bottom; only colours are normalised."""
    x = planes.permute(0, 3, 1, 2).float() / 255  # (N, 4, h, w)
    x = torch.cat([(x[:, :3] - mean) / std, x[:, 3:]], 1)
    return F.pad(x, (0, -x.shape[3] % SIDE_STEP, 0, -x.shape[2] % SIDE_STEP))


def with_trimap(tile: Tile) -> npt.NDArray[np.uint8]:
    """(h, w, 4) uint8: the colours, and 0, 128 or 255."""
    trimap = np.where(tile.unknown, UNKNOWN, np.where(tile.p > 0.5, FOREGROUND, 0))
    return np.dstack([tile.image, trimap.astype(np.uint8)])


def tiles_at_once(network: nn.Module, side: int, room_bytes: int) -> int:
    """How many tiles' attention maps have room: three copies of (heads, (side / 16)², (side / 16)²) of 4 bytes each.

    So much is alive at once in transformers' ``VitDetAttention``; its softmax is in float32 in any precision.
    """
    heads = max((getattr(module, "num_heads", 0) for module in network.modules()), default=0)
    a_tile = 3 * heads * (side // 16) ** 4 * 4
    return max(1, min(MOST_TILES, room_bytes // max(a_tile, 1)))
