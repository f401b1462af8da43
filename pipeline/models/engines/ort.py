"""ONNX Runtime's session options and errors, the same for every graph. Imports no PyTorch."""

from __future__ import annotations

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from pipeline.concurrency import local_cpus

RUN_ERRORS = (
    *(runtime.Fail, runtime.RuntimeException, runtime.InvalidArgument, runtime.NotImplemented, runtime.EPFail),
    *(MemoryError, RuntimeError),
)
"""Errors of ONNX Runtime in a forward pass; OpenVINO raises RuntimeError only."""


CUDA = "CUDAExecutionProvider"


def has_cuda_provider() -> bool:
    """Return whether this ONNX Runtime was built for CUDA GPUs."""
    return CUDA in onnxruntime.get_available_providers()


def session_options(threads: int | None, *, optimise: bool = True) -> onnxruntime.SessionOptions:
    """Return the options of a session.

    Args:
        threads: Threads of an operation; default: all cores.
        optimise: Whether the graph is optimised, which takes time when it is opened.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; don't print them too
    options.intra_op_num_threads = threads or local_cpus()  # with 0, threads would be bound to cores that others use, too
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it would keep a third more memory than a pass needs
    # Idle threads would spin on cores that another engine or process needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
