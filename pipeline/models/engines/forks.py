"""Refuse models in processes that were forked from one that had loaded a model, and GPUs if it had started CUDA.

The threads of OpenVINO, ONNX Runtime and OpenMP do not survive a fork. A forward pass in the child would wait for them forever
(microsoft/onnxruntime#5093). CUDA does not survive one either: the child would find no GPU, and ``auto`` would be the CPU.
"""

from __future__ import annotations

import os

from pipeline.errors import ConfigError


class _Process:
    """Facts about this process and its parent."""

    has_loaded = False
    is_fork = False
    """True if it was forked from a process that had loaded a model."""

    has_cuda = False
    has_lost_cuda = False
    """True if it was forked from a process that had started CUDA."""

    def fork(self) -> None:
        self.is_fork, self.has_lost_cuda = self.has_loaded, self.has_cuda


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.fork)


def note_load() -> None:
    """Record that this process loads a model.

    Raises:
        ConfigError: As ``check_fork``.
    """
    check_fork()
    _process.has_loaded = True


def note_cuda() -> None:
    """Record that this process has started CUDA, which only looking for GPUs does."""
    _process.has_cuda = True


def check_cuda() -> None:
    """Refuse GPUs in a process that was forked from one that had started CUDA.

    Raises:
        ConfigError: It was.
    """
    if _process.has_lost_cuda:
        raise ConfigError(
            "this process was forked from one that had looked for GPUs, and CUDA does not survive a fork; start processes with "
            "spawn or forkserver, fork them before, or use compute.device=cpu (in Python: device='cpu')"
        )


def check_fork() -> None:
    """Refuse a process that was forked from one that had loaded a model.

    Raises:
        ConfigError: It was.
    """
    if _process.is_fork:
        raise ConfigError(
            "this process was forked from one that had loaded a model, and the threads of a model do not survive a fork; load "
            "models in the child processes only, or start them with spawn or forkserver"
        )
