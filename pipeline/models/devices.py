"""Find out whether this machine has a CUDA GPU, without importing PyTorch where there can be none."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.models.engines.forks import check_cuda, note_cuda

CUDA_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

DeviceType = Literal["cpu", "cuda"]


def choose_device_type(name: str) -> DeviceType:
    """Return the type of the device named ``cpu`` or ``cuda``; ``auto`` is CUDA if available, else the CPU.

    Raises:
        ConfigError: There is no CUDA GPU, or the name is unknown; or as ``has_cuda``.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"there is no device {name!r}; use auto, cpu or cuda")
    if name == "cpu":
        return "cpu"
    if has_cuda():
        return "cuda"
    if name == "cuda":
        raise ConfigError("compute.device is cuda, but PyTorch finds no CUDA GPU on this machine; use compute.device=cpu")
    return "cpu"


def effective_device(name: str, model: str) -> DeviceType:
    """Return the type of the device that a ``recipe.model`` runs on: with ``auto`` a GPU only if this installation can use it.

    Raises:
        ConfigError: As ``choose_device_type``.
    """
    device = choose_device_type(name)
    return "cpu" if name == "auto" and device == "cuda" and not can_run_on_gpu(model) else device


def can_run_on_gpu(model: str) -> bool:
    """Return whether this installation can run such a ``recipe.model`` on a GPU, whether or not there is one."""
    if model != "onnx":
        return True
    from pipeline.models.engines.ort import has_cuda_provider

    return has_cuda_provider()


def has_cuda() -> bool:
    """Return whether PyTorch can use a CUDA GPU here. PyTorch is imported only if NVIDIA's driver shows a GPU.

    Raises:
        ConfigError: As ``check_cuda``.
    """
    check_cuda()
    if "torch" not in sys.modules and not driver_finds_gpu():
        return False
    import torch

    found = torch.cuda.is_available()
    if found:
        note_cuda()
    return found


@functools.cache
def driver_finds_gpu() -> bool:
    """Return whether NVIDIA's driver is installed and shows this process a GPU (``CUDA_VISIBLE_DEVICES`` may hide all)."""
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
        count = ctypes.c_int(0)
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
    if found:
        note_cuda()
    return bool(found)
