"""Image to model frame and back on the model's device: what ``imaging.frame`` does on the host, where that is a GPU.

Only the image's own bytes travel there, and only its finished mask comes back. Frames are Pillow's to the bit: its 8-bit
resampling (python-pillow/Pillow 13, ``src/libImaging/Resample.c``) sums whole numbers, which is the same on any processor.
Masks are Pillow's or OpenCV's up to the last digit of float32. PyTorch's own antialiased ``interpolate`` is neither: it
differs by a level in 0.2 to 0.6 % of a bilinear frame's values as uint8, in 9 to 19 % as float.
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
from pipeline.models.forward import to_device
from pipeline.models.refiners.refine_tiles import Refinement
from pipeline.types import Pixels, Placed

STRIPE_PX = 2**23
"""Pixels in work at once, so that an image of any size fits: about 150 MB on the device while a frame is made."""

BITS = 22
"""Pillow's weights for 8-bit pixels are whole multiples of 2^-22."""

Kind = Literal["bilinear", "lanczos", "plain"]
"""Pillow's filters, which widen where they shrink; ``plain`` is linear between pixel centres, as OpenCV's INTER_LINEAR."""

REACH: dict[Kind, float] = {"bilinear": 1.0, "lanczos": 3.0}


class Taps(NamedTuple):
    """Along one axis: which inputs every output is made of, and with which weights."""

    source: Tensor
    """(K, outputs) int64 on the device: which input."""
    weight: Tensor
    """(K, outputs) on the device: int32 in units of 2^-22 for pixels of 8 bits, else float64."""
    low: npt.NDArray[np.int64]
    """(outputs,) the first input that each output needs; never falls."""
    high: npt.NDArray[np.int64]
    """(outputs,) the input after the last one; never falls."""

    def stripe(self, rows: slice) -> Taps:
        """The taps of some outputs, for inputs that start at the first one these need."""
        first = int(self.low[rows][0])
        return Taps(self.source[:, rows] - first, self.weight[:, rows], self.low[rows] - first, self.high[rows] - first)


class DeviceFrames:
    """Frames and masks of images, made on a device without waiting for it.

    Args:
        device: any; on a CPU, Pillow and OpenCV are the faster way to the same.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device

    @torch.inference_mode()
    def frames(self, images: Sequence[Pixels], placements: Sequence[Placed]) -> Tensor:
        """The model's view of every image, black where its region leaves the image.

        Args:
            images: (H, W, 3) uint8 each, of any sizes.

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
        for rows, part in resized(lambda low, high: to_device(crop[low:high], self.device), across, down, down_first):
            frame[rows] = part

    @torch.inference_mode()
    def masks(self, p: Tensor, placements: Sequence[Placed], prepare_refinements: Sequence[Refinement | None]) -> list[Tensor]:
        """Masks at the images' sizes.

        Args:
            p: (N, S, S) float32 in [0, 1] on the device.
            prepare_refinements: what a refiner has to say of each.

        Returns:
            (H, W) uint8 each, on the device: ``imaging.frame``'s ``to_mask(restore(...))`` within one level.
        """
        return [self._mask(*one) for one in zip(p, placements, prepare_refinements, strict=True)]

    def _mask(self, alpha: Tensor, placed: Placed, refinement: Refinement | None) -> Tensor:
        (x0, y0, x1, y1), (left, top, right, bottom) = placed.region, placed.inside
        kind: Kind = "bilinear" if self.recipe.alpha_resize == "antialias" else "plain"
        side = len(alpha)
        across = taps(kind, side, x1 - x0, (0, side), (left - x0, right - x0), False, self.device)
        down = taps(kind, side, y1 - y0, (0, side), (top - y0, bottom - y0), False, self.device)

        def enlarged() -> Iterator[tuple[slice, Tensor]]:
            for rows, part in resized(lambda first, end: alpha[first:end], across, down):
                if refinement is not None:
                    refinement(part, rows)
                yield rows, part

        low, span = torch.zeros((), device=self.device), torch.ones((), device=self.device)
        if self.recipe.stretch:
            ends = [torch.stack(part.aminmax()) for _, part in enlarged()]
            low, high = torch.stack(ends).clamp(0, 1).unbind(1)
            low, high = low.amin(), high.amax()
            # A constant map stays as it is.
            low, span = low * (high > low), torch.where(high > low, high - low, span)
        mask = torch.zeros(tuple(placed.size), dtype=torch.uint8, device=self.device)
        canvas = mask[top:bottom, left:right]
        for rows, part in enlarged():
            canvas[rows] = ((part.clamp(0, 1) - low) / span * 255).round().to(torch.uint8)  # half to even
        return mask


def resized(
    read: Callable[[int, int], Tensor], across: Taps, down: Taps, down_first: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """A picture's rows at the new size, some at once.

    Args:
        read: ``read(low, high)`` gives these rows of the picture on the device, (high - low, W) or (high - low, W, C).
        down_first: the order of the two passes, between which 8-bit pixels are rounded.

    Yields:
        Which rows of the result, and those rows.
    """
    wide = max(int(across.high[-1]), len(across.low))
    tall, rows = max(int(down.high[-1]), len(down.low)), len(down.low)
    step = max(1, rows * STRIPE_PX // (wide * tall))
    for start in range(0, rows, step):
        stripe = slice(start, min(start + step, rows))
        part = read(int(down.low[stripe][0]), int(down.high[stripe][-1]))
        passes = [(across, 1), (down.stripe(stripe), 0)]
        for along, dim in reversed(passes) if down_first else passes:
            part = blend(part, along, dim)
        yield stripe, part


def blend(x: Tensor, along: Taps, dim: int) -> Tensor:
    """Every output along one dimension as the weighted sum of its taps: uint8 from uint8, float32 from float32.

    The few taps are gathered: a matrix product over all inputs would take a hundred times the multiplications, and tensor
    cores would cut them to 10 bits. Sums are kept in int32 (which is exact) and float64, as in Pillow: with less, a constant
    map would come out with noise, which ``recipe.stretch`` would make an object of.
    """
    whole = x.dtype == torch.uint8
    weight = along.weight.reshape(*along.weight.shape, *(1,) * (x.ndim - dim - 1))
    shape = list(x.shape)
    shape[dim] = weight.shape[1]
    total = torch.full(shape, 1 << (BITS - 1) if whole else 0, dtype=weight.dtype, device=x.device)
    for source, share in zip(along.source, weight, strict=True):
        total.addcmul_(x.index_select(dim, source), share)
    return (total >> BITS).clamp_(0, 255).to(torch.uint8) if whole else total.float()


@functools.lru_cache(maxsize=256)
def taps(
    kind: Kind, inputs: int, outputs: int, seen: tuple[int, int], wanted: tuple[int, int], whole: bool, device: torch.device
) -> Taps:
    """Taps of one axis, made once for each pair of sizes.

    Args:
        inputs, outputs: the lengths whose ratio is the scale.
        seen: the inputs that there are; the others are zero. Indices count from the first of them.
        wanted: the outputs to make.
        whole: for pixels of 8 bits.
    """
    place = np.arange(*wanted)
    first, weight = _linear(place, inputs, outputs) if kind == "plain" else _filtered(kind, place, inputs, outputs)
    index = first[:, None] + np.arange(weight.shape[1])  # (outputs, K)
    weight = np.where((index >= seen[0]) & (index < seen[1]), weight, 0)
    index = index.clip(seen[0], seen[1] - 1) - seen[0]
    if whole:
        weight = np.trunc(weight * 2**BITS + np.copysign(0.5, weight)).astype(np.int32)
    return Taps(to_device(index.T, device), to_device(weight.T, device), index[:, 0], index[:, -1] + 1)


def _filtered(
    kind: Kind, place: npt.NDArray[np.int64], inputs: int, outputs: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Pillow's ``precompute_coeffs``: the first tap of every output (outputs,), and all weights (outputs, K)."""
    scale = inputs / outputs
    widened = max(scale, 1.0)
    reach = REACH[kind] * widened
    centre = (place + 0.5) * scale
    first = np.maximum(np.trunc(centre - reach + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(centre + reach + 0.5), inputs).astype(np.int64)
    index = first[:, None] + np.arange((end - first).max())
    away = (index - centre[:, None] + 0.5) / widened
    if kind == "bilinear":
        weight = np.maximum(1 - np.abs(away), 0)
    else:
        weight = np.where((away >= -3) & (away < 3), np.sinc(away) * np.sinc(away / 3), 0)
    weight = np.where(index < end[:, None], weight, 0)
    # Summed up one by one, as Pillow does it: numpy's own sum has other last digits.
    return first, weight / np.cumsum(weight, 1)[:, -1:]


def _linear(place: npt.NDArray[np.int64], inputs: int, outputs: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Two taps an output, at the pixel centres beside its own; the border repeats."""
    centre = np.clip((place + 0.5) * (inputs / outputs) - 0.5, 0, inputs - 1)
    first = np.minimum(np.floor(centre).astype(np.int64), max(inputs - 2, 0))
    return first, np.stack([1 - (centre - first), centre - first], 1)
