"""What every model shares: from frames to normalised tensors, and the door where a failed forward becomes an item's error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, SegmentError

Frames = npt.NDArray[np.uint8] | Tensor
"""A batch for a model: (N, S, S, 3) uint8 RGB, S = ``frame_px``. As a tensor it may lie on the model's device already."""

Logits = Tensor
"""What a model gives: (N, S, S) float32 on its device."""


class Normalise:
    """Frames to what the network was trained on, on the model's device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.frame_px, self.scale, self.device = recipe.frame_px, recipe.scale, device
        self.mean = torch.tensor(recipe.mean, device=device).reshape(1, 3, 1, 1)
        self.std = torch.tensor(recipe.std, device=device).reshape(1, 3, 1, 1)

    def __call__(self, frames: Frames) -> Tensor:
        """(N, S, S, 3) uint8 to (N, 3, S, S) float32: scaled by 255 or by each frame's own maximum, then (x - mean) / std."""
        x = upload(frames, self.frame_px, self.device).permute(0, 3, 1, 2).float()  # (N, 3, S, S)
        # A black frame has no maximum to divide by, and stays black.
        x = x / (x.amax((1, 2, 3), keepdim=True).clamp_min(1) if self.scale == "max" else 255)
        return (x - self.mean) / self.std


def upload(frames: Frames, frame_px: int, device: torch.device) -> Tensor:
    """Frames as a (N, S, S, 3) uint8 tensor on a device; to CUDA without waiting for the copy.

    Raises:
        ValueError: not (N, ``frame_px``, ``frame_px``, 3) uint8: a caller's mistake, not an image's.
    """
    kind = str(frames.dtype).removeprefix("torch.")
    if kind != "uint8" or frames.ndim != 4 or not len(frames) or frames.shape[1:] != (frame_px, frame_px, 3):
        raise ValueError(f"frames must be (N, {frame_px}, {frame_px}, 3) uint8, not {tuple(frames.shape)} {kind}")
    return frames.to(device) if isinstance(frames, Tensor) else to_device(frames, device)


def mirror(frames: Frames) -> Frames:
    """The same batch, left and right exchanged."""
    return frames.flip(2) if isinstance(frames, Tensor) else np.ascontiguousarray(frames[:, :, ::-1])


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of an array on a device. To CUDA from pinned memory, which alone can be copied without waiting for all else."""
    staged = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=device.type == "cuda")
    staged.numpy()[...] = array
    return staged.to(device, non_blocking=True)


def to_host(*parts: Tensor | npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Tensors as arrays: all copied at once, with one wait for the device. Arrays stay as they are."""
    copies = [part.to("cpu", non_blocking=True) if isinstance(part, Tensor) else part for part in parts]
    for device in {part.device for part in parts if isinstance(part, Tensor) and part.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    return [copy.numpy() if isinstance(copy, Tensor) else copy for copy in copies]


Probabilities = Tensor
"""(N, S, S) float32 in [0, 1] on the model's device: alpha as the base gave it."""


def to_logits(output: Tensor, activation: str) -> Tensor:
    """A model's raw output as float32 logits; a probability ("none": nothing is left to apply) is turned back into one."""
    output = output.float()
    return output if activation == "sigmoid" else torch.logit(output.clamp(1e-6, 1 - 1e-6))


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's small steps between two passes of another engine: after each its other threads would spin for a millisecond on
    the cores that the engine wants."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is some.

    Raises:
        ConfigError: ``cuda`` on a machine without, or another name.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"there is no device {name!r}; use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("compute.device is cuda, but PyTorch finds no CUDA GPU on this machine; use compute.device=cpu")
    return (
        torch.device("cuda", torch.cuda.current_device())
        if name != "cpu" and torch.cuda.is_available()
        else torch.device("cpu")
    )


BrokenDevice: type[Exception] = torch.AcceleratorError
"""The GPU, or what this process has of it, is lost: no item is to blame, and no further one can be done in this process."""


def device_memory(device: torch.device) -> dict[str, int]:
    """Bytes of a GPU that PyTorch has ``reserved`` in this process, and the ``peak`` of it; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    return {"reserved": torch.cuda.memory_reserved(device), "peak": torch.cuda.max_memory_reserved(device)}


@contextmanager
def segment_errors(batch: int) -> Iterator[None]:
    """Turn what PyTorch raises in a forward pass into an item's error.

    Raises:
        SegmentError: out of memory, or an operation that failed.
        BrokenDevice: let through.
    """
    try:
        yield
    except BrokenDevice:
        raise
    except torch.OutOfMemoryError as error:
        raise SegmentError(f"out of GPU memory with {batch} frames at once; lower compute.batch_size") from error
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise SegmentError(f"the model failed on a batch of {batch}: {reason}") from error
