"""Shared parts of a forward pass in PyTorch: devices, transfers, normalisation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.config.recipe import Recipe
from pipeline.models.devices import choose_device_type
from pipeline.models.host_frames import check_frames

Frames = npt.NDArray[np.uint8] | Tensor
"""A batch of model inputs: (N, S, S, 3) uint8 RGB, S = ``frame_px``; a tensor may be on the model's device already."""

Probabilities = Tensor
"""The model's alpha: (N, S, S) float32 in [0, 1] on its device."""


class Normalise:
    """Convert frames to the network's input, on the model's device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.frame_px, self.scale, self.device = recipe.frame_px, recipe.scale, device
        self.mean = torch.tensor(recipe.mean, device=device).reshape(1, 3, 1, 1)
        self.std = torch.tensor(recipe.std, device=device).reshape(1, 3, 1, 1)

    def __call__(self, frames: Frames) -> Tensor:
        """Return (x - mean) / std as (N, 3, S, S) float32, where x is divided by 255 or by each frame's maximum."""
        x = upload(frames, self.frame_px, self.device).permute(0, 3, 1, 2).float()  # (N, 3, S, S)
        # clamp_min: a black frame has the maximum 0, and stays black.
        x = x / (x.amax((1, 2, 3), keepdim=True).clamp_min(1) if self.scale == "max" else 255)
        return (x - self.mean) / self.std


def upload(frames: Frames, frame_px: int, device: torch.device) -> Tensor:
    """Copy frames to a device as (N, S, S, 3) uint8; to CUDA without waiting for the copy.

    Raises:
        ValueError: As ``check_frames``.
    """
    check_frames(frames, frame_px)
    return frames.to(device) if isinstance(frames, Tensor) else to_device(frames, device)


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device; to CUDA through pinned memory, without which the copy would wait for all other work."""
    staged = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=device.type == "cuda")
    staged.numpy()[...] = array
    return staged.to(device, non_blocking=True)


def to_host(*parts: Tensor | npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Copy tensors to arrays with a single wait for the device. Arrays are returned as they are.

    What comes from a GPU is copied once more: it arrives in page-locked memory, of which the system has little.
    """
    copies = [part.to("cpu", non_blocking=True) if isinstance(part, Tensor) else part for part in parts]
    for device in {part.device for part in parts if isinstance(part, Tensor) and part.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    arrays = [copy.numpy() if isinstance(copy, Tensor) else copy for copy in copies]
    locked = [isinstance(part, Tensor) and part.device.type == "cuda" for part in parts]
    return [array.copy() if is_locked else array for array, is_locked in zip(arrays, locked, strict=True)]


def to_logits(output: Tensor, activation: str) -> Tensor:
    """Convert a model's raw output to float32 logits; with the activation ``none`` the output is a probability."""
    output = output.float()
    return output if activation == "sigmoid" else torch.logit(output.clamp(1e-6, 1 - 1e-6))


class _OneThread:
    """PyTorch's number of threads while some threads of this process want one, and before.

    PyTorch keeps a number per thread, and gives new threads the number that was set last. A thread that first used PyTorch
    while another one was inside has kept 1, so the usual number is that of a new thread while nobody is inside.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside, self._usual = 0, 1

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                with ThreadPoolExecutor(1) as new:
                    self._usual = new.submit(torch.get_num_threads).result()
            self._inside += 1
            torch.set_num_threads(1)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(self._usual)


_one_thread = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch on one thread: its idle threads spin for a millisecond on cores that another engine needs.

    Any number of threads may be inside at once. Afterwards each has the usual number again.
    """
    _one_thread.enter()
    try:
        yield
    finally:
        _one_thread.leave()


def choose_device(name: str) -> torch.device:
    """Return the device named ``cpu`` or ``cuda``; ``auto`` is CUDA if available, else the CPU.

    Raises:
        ConfigError: There is no CUDA GPU, or the name is unknown.
    """
    if choose_device_type(name) == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def compute_in_full(device: str) -> None:
    """Make fp32 networks convolve in fp32 on a GPU: TF32, PyTorch's default there, keeps only 10 bits of the mantissa."""
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def device_memory(device: torch.device) -> dict[str, int]:
    """Return the bytes of GPU memory that PyTorch has ``reserved`` in this process, and their ``peak``; empty for a CPU."""
    if device.type != "cuda":
        return {}
    return {"reserved": torch.cuda.memory_reserved(device), "peak": torch.cuda.max_memory_reserved(device)}
