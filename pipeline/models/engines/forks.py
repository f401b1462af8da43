"""Refuse models in processes that were forked from one that had loaded a model.

The threads of OpenVINO, ONNX Runtime and OpenMP do not survive a fork. A forward pass in the child would wait for them forever
(microsoft/onnxruntime#5093).
"""

from __future__ import annotations

import os

from pipeline.errors import ConfigError


class _Process:
    """Facts about this process and its parent."""

    has_loaded = False
    is_fork = False
    """True if it was forked from a process that had loaded a model."""

    def fork(self) -> None:
        self.is_fork = self.has_loaded


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
