"""Files of tensors, opened without running anything in them: safetensors, or PyTorch's own."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.errors import WeightsError

WRAPPER_KEYS = ("model_state_dict", "state_dict")
"""Under these keys a training checkpoint keeps its weights, beside the optimiser and the like."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What weights may be stored as."""

COUNTS = ".num_batches_tracked"
"""Of batch norms in training; no file of ours has them."""


def finite(tensors: Mapping[str, Tensor], key: str, path: Path, dtype: torch.dtype) -> Tensor:
    """A copy of one of a file's tensors, as float32.

    Raises:
        WeightsError: it has numbers that are not finite in the type that is going to be computed in.
    """
    found = tensors[key].to(dtype=torch.float32, copy=True)
    if not torch.isfinite(found.to(dtype)).all():
        raise WeightsError(f"{path}: {key} has numbers that are not finite as {short(dtype)}; get the file anew")
    return found


def matched(path: Path, network: nn.Module, whose: str, mend: str) -> dict[str, Tensor]:
    """The tensors of a file of ours: all that the network has, and no others; not yet read.

    Args:
        whose, mend: for the error: the network's name, and what to do.

    Raises:
        WeightsError: not a weights file, or a tensor is absent, unknown or of another shape.
    """
    tensors = open_tensors(path)
    wanted = {key: tuple(slot.shape) for key, slot in network.state_dict().items() if not key.endswith(COUNTS)}
    for key in sorted(wanted.keys() | tensors.keys()):
        have = tuple(tensors[key].shape) if key in tensors else "absent"
        if have != wanted.get(key):
            raise WeightsError(f"{path} isn't {whose}: {key} is {have}, but should be {wanted.get(key, 'absent')}; {mend}")
    return tensors


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Put a file's tensors, as ``matched`` gives them, into the network.

    Raises:
        WeightsError: as ``finite``.
    """
    counts = {key: slot for key, slot in network.state_dict().items() if key.endswith(COUNTS)}
    network.load_state_dict(counts | {key: finite(tensors, key, path, dtype) for key in tensors}, strict=True)


def open_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a ``.safetensors`` or PyTorch file by its key, mapped from disk: nothing is read until it is used.

    The format is told from the content, not from the name. A PyTorch file must be a state dict, or hold one as
    ``model_state_dict`` or ``state_dict``; only tensors are unpickled.

    Raises:
        WeightsError: unreadable, cut off, damaged, or something else altogether.
    """
    head = read_head(path)
    if head[8:9] == b"{":
        return _open_safetensors(path)
    if head[:4] == b"PK\x03\x04":
        return _open_pytorch(path)
    if head[:1] == b"\x80":
        raise WeightsError(
            f"{path} is a bare pickle, which can run code when it is opened; "
            "save its state dict again with torch.save (PyTorch 1.6 or later) or as .safetensors"
        )
    if path.suffix == ".onnx":
        raise WeightsError(f"{path} is an ONNX file; take a preset for such a one, u2netp or birefnet for example")
    raise WeightsError(f"{path} is neither a .safetensors nor a PyTorch weights file; it begins with {head[:8]!r}")


def read_head(path: Path) -> bytes:
    """The first bytes of a weights file of any kind, if they may be ones.

    Raises:
        WeightsError: unreadable, empty, a web page, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from error
    if not head:
        raise WeightsError(f"{path} is empty; get the file anew")
    if re.match(rb"\s*<(!doctype|html|head|\?xml)", head, re.IGNORECASE):
        raise WeightsError(f"{path} is a web page, not weights; its address led to a login or an error, get the file anew")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights themselves; fetch them with git lfs pull")
    return head


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it has no other way to list them)
    except Exception as error:
        raise WeightsError(f"{path} is cut off or damaged; get the file anew ({error})") from error


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
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise WeightsError(
            f"{path} is cut off or damaged, or holds more than tensors; get the file anew, or as .safetensors ({reason})"
        ) from error
    for mantle in WRAPPER_KEYS:
        if isinstance(content, dict) and isinstance(content.get(mantle), dict):
            content = content[mantle]
            break
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise WeightsError(f"{path}: {key!r} is a {type(value).__name__}; a state dict holds tensors only")
    return content


def short(dtype: torch.dtype) -> str:
    """``float16`` and the like."""
    return str(dtype).removeprefix("torch.")
