"""Image to model frame and back on a GPU: the counterpart of ``imaging.frame``, which does the same on the host.

Only the image's bytes travel to the device, and only the finished mask comes back. Frames equal Pillow's to the bit: its 8-bit
resampling (python-pillow/Pillow 13, ``src/libImaging/Resample.c``) sums integers, which any processor does alike. Masks equal
Pillow's or OpenCV's up to the last digit of float32. PyTorch's own antialiased ``interpolate`` differs from Pillow by one level
in 0.2 to 0.6 % of a bilinear frame's values as uint8, in 9 to 19 % as float.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.models.forward import Probabilities, to_device
from pipeline.models.refiners.refine_tiles import Refinement
from pipeline.types import Pixels, Placed

STRIPE_PX = 2**23
"""Pixels that are processed at once, so that an image of any size fits: about 150 MB on the device while a frame is made."""

BITS = 22
"""Pillow's weights for 8-bit pixels are integer multiples of 2^-22."""

Kind = Literal["bilinear", "lanczos", "plain"]
"""Pillow's filters, which widen where they shrink; ``plain`` is linear between pixel centres, as OpenCV's INTER_LINEAR."""

SUPPORT: dict[Kind, float] = {"bilinear": 1.0, "lanczos": 3.0}
"""Half the width of Pillow's filters, in input pixels."""


class Taps(NamedTuple):
    """The inputs and weights of every output along one axis."""

    source: Tensor
    """(K, outputs) int64 on the device: indices of inputs."""
    weight: Tensor
    """(K, outputs) on the device: int32 in units of 2^-22 for 8-bit pixels, else float64."""
    low: npt.NDArray[np.int64]
    """(outputs,), ascending: the first input of each output."""
    high: npt.NDArray[np.int64]
    """(outputs,), ascending: the input after the last one."""

    def stripe(self, rows: slice) -> Taps:
        """Return the taps of some outputs, with inputs counted from the first one that they need."""
        first = int(self.low[rows][0])
        return Taps(self.source[:, rows] - first, self.weight[:, rows], self.low[rows] - first, self.high[rows] - first)


class DeviceFrames:
    """Make frames and masks on a device, without waiting for it.

    Args:
        recipe: Its frame size, filters and ``stretch`` are used.
        device: Any; on a CPU, Pillow and OpenCV do the same faster.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device

    @torch.inference_mode()
    def frames(self, images: Sequence[Pixels], placements: Sequence[Placed]) -> Tensor:
        """Make the frames of images, black where the region leaves the image.

        Args:
            images: (H, W, 3) uint8 each, of any sizes.
            placements: The region of each image that fills its frame.

        Returns:
            (N, S, S, 3) uint8 on the device, equal to ``imaging.frame.make_frame``.
        """
        side = self.recipe.frame_px
        frames = torch.empty((len(images), side, side, 3), dtype=torch.uint8, device=self.device)
        for frame, image, placed in zip(frames, images, placements, strict=True):
            self._fill(frame, image, placed)
        return frames

    def _fill(self, frame: Tensor, image: Pixels, placed: Placed) -> None:
        (x0, y0, x1, y1), (left, top, right, bottom) = placed.region, placed.inside
        kind, side = self.recipe.frame_resize, len(frame)
        across = taps(kind, x1 - x0, side, (left - x0, right - x0), (0, side), True, self.device)
        down = taps(kind, y1 - y0, side, (top - y0, bottom - y0), (0, side), True, self.device)
        crop = image[top:bottom, left:right]
        down_first = y1 - y0 - side > max(0, 2 * (x1 - x0 - side))  # Pillow's rule, from version 13 on
        for rows, part in resize_rows(lambda low, high: to_device(crop[low:high], self.device), across, down, down_first):
            frame[rows] = part

    @torch.inference_mode()
    def masks(self, p: Probabilities, placements: Sequence[Placed], refinements: Sequence[Refinement | None]) -> list[Tensor]:
        """Make masks at the images' sizes.

        Args:
            p: (N, S, S) float32 in [0, 1] on the device.
            placements: The region of each image that fills its frame.
            refinements: The refinement of each image, if it has one.

        Returns:
            (H, W) uint8 each, on the device: ``imaging.frame``'s ``to_mask(restore(...))`` within one level.
        """
        return [self._mask(*one) for one in zip(p, placements, refinements, strict=True)]

    def _mask(self, alpha: Tensor, placed: Placed, refinement: Refinement | None) -> Tensor:
        (x0, y0, x1, y1), (left, top, right, bottom) = placed.region, placed.inside
        kind: Kind = "bilinear" if self.recipe.alpha_resize == "antialias" else "plain"
        side = len(alpha)
        across = taps(kind, side, x1 - x0, (0, side), (left - x0, right - x0), False, self.device)
        down = taps(kind, side, y1 - y0, (0, side), (top - y0, bottom - y0), False, self.device)

        def enlarge() -> Iterator[tuple[slice, Tensor]]:
            for rows, part in resize_rows(lambda first, end: alpha[first:end], across, down):
                if refinement is not None:
                    refinement.refine_tiles(part, rows)
                yield rows, part

        low, span = torch.zeros((), device=self.device), torch.ones((), device=self.device)
        if self.recipe.stretch:
            extremes = [torch.stack(part.aminmax()) for _, part in enlarge()]
            low, high = torch.stack(extremes).clamp(0, 1).unbind(1)
            low, high = low.amin(), high.amax()
            # A constant map stays as it is.
            low, span = low * (high > low), torch.where(high > low, high - low, span)
        mask = torch.zeros(tuple(placed.size), dtype=torch.uint8, device=self.device)
        inside = mask[top:bottom, left:right]
        for rows, part in enlarge():
            inside[rows] = ((part.clamp(0, 1) - low) / span * 255).round().to(torch.uint8)  # half to even
        return mask


def resize_rows(
    read: Callable[[int, int], Tensor], across: Taps, down: Taps, down_first: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Resize a picture in stripes of rows.

    Args:
        read: ``read(low, high)`` returns these rows of the picture on the device, (high - low, W) or (high - low, W, C).
        across: Taps of the columns.
        down: Taps of the rows.
        down_first: Whether rows are resized before columns; 8-bit pixels are rounded in between.

    Yields:
        The row numbers of the result, and those rows.
    """
    max_width = max(int(across.high[-1]), len(across.low))
    max_height, rows = max(int(down.high[-1]), len(down.low)), len(down.low)
    step = max(1, rows * STRIPE_PX // (max_width * max_height))
    for start in range(0, rows, step):
        stripe = slice(start, min(start + step, rows))
        part = read(int(down.low[stripe][0]), int(down.high[stripe][-1]))
        passes = [(across, 1), (down.stripe(stripe), 0)]
        for along, dim in reversed(passes) if down_first else passes:
            part = apply_taps(part, along, dim)
        yield stripe, part


def apply_taps(x: Tensor, along: Taps, dim: int) -> Tensor:
    """Compute every output along one dimension as the weighted sum of its taps: uint8 from uint8, float32 from float32.

    Only the few taps are gathered: a full matrix product needs a hundred times the multiplications, and tensor cores would
    truncate its inputs to 10 bits. Sums are kept in int32 (exact) or float64, as in Pillow: with less, a constant map would get
    noise, which ``recipe.stretch`` would turn into an object.
    """
    is_uint8 = x.dtype == torch.uint8
    weight = along.weight.reshape(*along.weight.shape, *(1,) * (x.ndim - dim - 1))
    shape = list(x.shape)
    shape[dim] = weight.shape[1]
    total = torch.full(shape, 1 << (BITS - 1) if is_uint8 else 0, dtype=weight.dtype, device=x.device)
    for source, factor in zip(along.source, weight, strict=True):
        total.addcmul_(x.index_select(dim, source), factor)
    return (total >> BITS).clamp_(0, 255).to(torch.uint8) if is_uint8 else total.float()


@functools.lru_cache(maxsize=256)
def taps(
    kind: Kind, inputs: int, outputs: int, valid: tuple[int, int], wanted: tuple[int, int], uint8: bool, device: torch.device
) -> Taps:
    """Compute the taps of one axis, once for each pair of sizes.

    Args:
        kind: The filter.
        inputs: Length of the input; with ``outputs`` it is the scale.
        outputs: Length of the output.
        valid: Range of the inputs that exist; the others are zero. Indices count from the first of them.
        wanted: Range of the outputs to compute.
        uint8: Whether pixels have 8 bits.
        device: Where the tensors go.
    """
    index = np.arange(*wanted)
    first, weight = _linear(index, inputs, outputs) if kind == "plain" else _filter(kind, index, inputs, outputs)
    source = first[:, None] + np.arange(weight.shape[1])  # (outputs, K)
    weight = np.where((source >= valid[0]) & (source < valid[1]), weight, 0)
    source = source.clip(valid[0], valid[1] - 1) - valid[0]
    if uint8:
        weight = np.trunc(weight * 2**BITS + np.copysign(0.5, weight)).astype(np.int32)
    return Taps(to_device(source.T, device), to_device(weight.T, device), source[:, 0], source[:, -1] + 1)


def _filter(
    kind: Kind, index: npt.NDArray[np.int64], inputs: int, outputs: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the first tap (outputs,) and the weights (outputs, K) of outputs, as Pillow's ``precompute_coeffs``."""
    scale = inputs / outputs
    widening = max(scale, 1.0)
    support = SUPPORT[kind] * widening
    centre = (index + 0.5) * scale
    first = np.maximum(np.trunc(centre - support + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(centre + support + 0.5), inputs).astype(np.int64)
    source = first[:, None] + np.arange((end - first).max())
    distance = (source - centre[:, None] + 0.5) / widening
    if kind == "bilinear":
        weight = np.maximum(1 - np.abs(distance), 0)
    else:
        weight = np.where((distance >= -3) & (distance < 3), np.sinc(distance) * np.sinc(distance / 3), 0)
    weight = np.where(source < end[:, None], weight, 0)
    # Summed one by one, as in Pillow: numpy's sum has other last digits.
    return first, weight / np.cumsum(weight, 1)[:, -1:]


def _linear(index: npt.NDArray[np.int64], inputs: int, outputs: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return two taps per output: the inputs whose centres are on either side of its own; the border repeats."""
    centre = np.clip((index + 0.5) * (inputs / outputs) - 0.5, 0, inputs - 1)
    first = np.minimum(np.floor(centre).astype(np.int64), max(inputs - 2, 0))
    return first, np.stack([1 - (centre - first), centre - first], 1)
