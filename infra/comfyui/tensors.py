"""ComfyUI's tensors to arrays and back. IMAGE: (B, H, W, 3 or 4) float, 0 to 1. MASK: (B, H, W) float, 1 is the object."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from comfy.utils import ProgressBar

Part = TypeVar("Part")
Result = TypeVar("Result")


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy as float32, clipped to [0, 1]: upscalers and decoders of latents exceed it a little."""
    return tensor.detach().to("cpu", torch.float32).clamp(0, 1).numpy()


def to_uint8(tensor: torch.Tensor) -> np.ndarray:
    """Return 0 to 255."""
    return np.rint(to_array(tensor) * 255).astype(np.uint8)


def to_tensor(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Return uint8 arrays of one shape as one batch."""
    return torch.from_numpy(np.stack(arrays).astype(np.float32) / 255)


def aligned(*lists: Sequence[Any] | None) -> list[tuple[Any, ...]]:
    """Zip lists or batches as ComfyUI does: the last value of a shorter one is repeated. None gives None."""
    longest = max(len(values) for values in lists if values is not None)
    return [
        tuple(None if values is None else values[min(number, len(values) - 1)] for values in lists) for number in range(longest)
    ]


def in_batches(work: Callable[[slice], Sequence[Result]], count: int, size: int) -> list[Result]:
    """Return the results of all batches. ComfyUI's progress bar moves; between batches, its stop button ends the work."""
    bar, results = ProgressBar(count), list[Result]()
    for start in range(0, count, size):
        results += work(slice(start, start + size))
        bar.update_absolute(min(start + size, count))
    return results
