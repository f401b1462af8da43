"""Convert errors of a forward pass, in any engine, to an item's error. Imports no engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import SegmentError


class BrokenDevice(Exception):
    """The GPU or this process's CUDA context is lost: no item is to blame, and this process can run no further one."""


@contextmanager
def segment_errors(batch: int) -> Iterator[None]:
    """Convert errors in a forward pass to an item's error, or to ``BrokenDevice``.

    Raises:
        SegmentError: Memory ran out, or an operation failed.
        BrokenDevice: The GPU is lost.
    """
    from pipeline.imaging.png import RESOURCE_ERRORS  # imports OpenCV, which commands without pictures do not need

    try:
        yield
    except (RuntimeError, *RESOURCE_ERRORS) as error:
        if _is_pytorchs(error, "OutOfMemoryError"):
            raise SegmentError(f"out of GPU memory with {batch} frames at once; lower compute.batch_size") from error
        lost = error if _is_pytorchs(error, "AcceleratorError") else _loss_of_device()
        if lost is not None:
            raise BrokenDevice(first_line(lost)) from error
        raise SegmentError(f"the model failed on a batch of {batch}: {first_line(error)}") from error


def _loss_of_device() -> Exception | None:
    """Return the error of a lost CUDA context, which cuBLAS and cuDNN report as a RuntimeError; None if it works."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return error if _is_pytorchs(error, "AcceleratorError") else None
    return None


def _is_pytorchs(error: Exception, name: str) -> bool:
    """Return whether an error is an instance of PyTorch's class of this name; it is not, if nothing has imported PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, getattr(torch, name))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return str(error).strip().split("\n", 1)[0][:200]
