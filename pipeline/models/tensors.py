"""Open files of tensors, safetensors or PyTorch's own, without running code in them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.models.failures import first_line
from pipeline.models.layouts import is_safetensors

WRAPPER_KEYS = ("model_state_dict", "state_dict")
"""Keys under which training checkpoints keep the weights, beside the optimiser's state."""

STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Types that weights may be stored in."""

BATCH_COUNTS = ".num_batches_tracked"
"""Suffix of batch norms' training counters, which our own files lack."""


def read_finite(tensors: Mapping[str, Tensor], key: str, path: Path, dtype: torch.dtype) -> Tensor:
    """Copy one of a file's tensors as float32.

    Raises:
        WeightsError: It has numbers that are not finite in ``dtype``, the type of the computation.
    """
    tensor = tensors[key].to(dtype=torch.float32, copy=True)
    if not torch.isfinite(tensor.to(dtype)).all():
        raise WeightsError(f"{path}: {key} has numbers that are not finite as {short(dtype)}; download the file again")
    return tensor


def open_matching(path: Path, network: nn.Module, name: str, fix: str) -> dict[str, Tensor]:
    """Open a file of our own that must hold exactly the network's tensors. Nothing is read yet.

    Args:
        path: The weights file.
        network: May be on the device ``meta``.
        name: The network's name, for the error.
        fix: What the user can do, for the error.

    Raises:
        WeightsError: Not a weights file, or a tensor is missing, unknown, or of another shape or type.
    """
    tensors = open_tensors(path)
    wanted = {key: tuple(slot.shape) for key, slot in network.state_dict().items() if not key.endswith(BATCH_COUNTS)}
    for key in sorted(wanted.keys() | tensors.keys()):
        shape = tuple(tensors[key].shape) if key in tensors else "absent"
        if shape != wanted.get(key):
            raise WeightsError(
                f"{path} does not hold weights of {name}: {key[:80]} is {shape}, "
                f"but should be {wanted.get(key, 'absent')}; {fix}"
            )
        check_dtype(tensors, key, path)
    return tensors


def check_dtype(tensors: Mapping[str, Tensor], key: str, path: Path) -> None:
    """Check that a tensor is of a type that weights are stored in.

    Raises:
        WeightsError: It is of another type.
    """
    if tensors[key].dtype not in STORED_DTYPES:
        types = ", ".join(short(dtype) for dtype in STORED_DTYPES)
        raise WeightsError(f"{path}: {key} has the type {short(tensors[key].dtype)}; save the weights as one of {types}")


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Load the tensors from ``open_matching`` into the network.

    Raises:
        WeightsError: As ``read_finite``.
    """
    counts = {key: slot for key, slot in network.state_dict().items() if key.endswith(BATCH_COUNTS)}
    network.load_state_dict(counts | {key: read_finite(tensors, key, path, dtype) for key in tensors}, strict=True)


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Map every tensor of a ``.safetensors`` or PyTorch file by its key. Numbers are read from disk when they are used.

    The content decides the format, not the name. A PyTorch file must be a state dict, or contain one as ``model_state_dict`` or
    ``state_dict``; only tensors are unpickled.

    Raises:
        WeightsError: Unreadable, cut off, damaged, or not a weights file.
    """
    return _open_safetensors(path) if is_safetensors(path) else _open_pytorch(path)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it has no other way to list them)
    except Exception as error:
        raise WeightsError(f"{path} is cut off or damaged; download the file again ({first_line(error)})") from error


def _open_pytorch(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            packed = next((entry for entry in archive.infolist() if entry.compress_size != entry.file_size), None)
        if packed is not None:
            raise WeightsError(f"{path} holds a compressed entry, {packed.filename}; torch.save never writes one")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except WeightsError:
        raise
    except Exception as error:
        fix = f"download it again, or as .safetensors ({first_line(error)})"
        raise WeightsError(f"{path} is cut off or damaged, or holds more than tensors; {fix}") from error
    for key in WRAPPER_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise WeightsError(f"{path}: {repr(key)[:80]} is a {type(value).__name__}; a state dict holds tensors only")
        if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
            raise WeightsError(f"{path}: {key[:80]!r} is a sparse, nested, quantised or empty tensor; save plain tensors")
    return content


def short(dtype: torch.dtype) -> str:
    """Return the name of a type, such as ``float16``."""
    return str(dtype).removeprefix("torch.")
