"""Run graphs in OpenVINO: the same numbers as in ONNX Runtime or PyTorch, and faster on a CPU. Imports no PyTorch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.log import waiting_for
from pipeline.models.engines.graph_cache import read_cached

NATIVE_ENGINE = {"mvanet": "torch", "onnx": "onnxruntime"}
"""Engine of each ``recipe.model`` where OpenVINO is not used."""

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""OpenVINO's names of ``recipe.precision``."""

LARGE_BYTES = 50_000_000
"""Size of an ONNX file from which compiling it takes seconds."""

BLOB = "compiled.blob"
"""File of a compiled graph in the cache."""


def has_openvino() -> bool:
    """Return whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def has_bf16() -> bool:
    """Return whether OpenVINO finds bf16 instructions on this CPU; without them it computes in fp32 without notice."""
    return has_openvino() and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check_engine(name: str, *natives: str) -> None:
    """Check that some machine could run these weights with an engine: OpenVINO, or one of ``natives``.

    Raises:
        ConfigError: The engine is for another kind of file.
    """
    if name not in ("auto", "openvino", *natives):
        known = ", ".join(("auto", *natives))
        raise ConfigError(f"compute.engine={name} can't run weights of this kind; use {known} or openvino")


def choose_engine(name: str, native: str, device: str) -> str:
    """Choose the engine of a model on this machine: ``openvino`` on a CPU where it is installed, else ``native``.

    Args:
        name: ``compute.engine``; any value but ``auto`` overrides the choice.
        native: The engine of such a weights file without OpenVINO.
        device: The type of the model's device.

    Raises:
        ConfigError: As ``check_engine``; or OpenVINO was requested on a GPU, or is not installed.
    """
    check_engine(name, native)
    if name == "openvino" and device != "cpu":
        raise ConfigError(f"compute.engine=openvino is for CPUs; use compute.engine={native} on a GPU, or compute.device=cpu")
    if name == "openvino" and not has_openvino():
        raise ConfigError(
            f"compute.engine=openvino needs one more package: pip install openvino; or use compute.engine={native}"
        )
    return "openvino" if name != native and device == "cpu" and has_openvino() else native


class OpenVinoFile:
    """An ONNX file's network in OpenVINO, in fp32 and image by image.

    Args:
        path: The file; nothing outside it is read.
        input_name: Name of the graph's input (1, 3, S, S).
        output_name: Name of the output to compute; others are dropped.
        frame_px: S.
        threads: Threads per forward pass; default: all cores.
        content: What tells the file's content from all others, such as its hash.
        cache: Folder of compiled graphs. Reading mvanet-lite's takes 0.2 s, compiling it 0.7 s. None: no cache.

    Raises:
        RuntimeError: OpenVINO cannot read or run it.
    """

    def __init__(
        self,
        path: Path,
        input_name: str,
        output_name: str,
        frame_px: int,
        threads: int | None,
        *,
        content: str | None,
        cache: Path | None,
    ) -> None:
        def compile_file() -> Any:
            import openvino

            model = core().read_model(path)
            graph = openvino.Model([model.output(output_name)], model.get_parameters())
            graph.reshape({input_name: [1, 3, frame_px, frame_px]})
            return compile_graph(graph, "fp32", threads)

        if cache is None or content is None:
            self.infer = Inference(compile_file())
            return
        name = _name_of(content, input_name, output_name, str(frame_px))
        is_large = path.stat().st_size >= LARGE_BYTES
        self.infer = Inference(_load_compiled(cache, name, compile_file, threads, is_large))

    def __call__(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Map (1, 3, S, S) in the graph's type to its output.

        Raises:
            RuntimeError: The forward pass failed.
        """
        return self.infer(x)


class Inference:
    """A compiled graph with one inference request, whose buffers hold one input and one output.

    Threads take turns. More requests would need as much memory each and gain little: one pass uses all its cores.
    """

    def __init__(self, compiled: Any) -> None:
        self.request, self._turn = compiled.create_infer_request(), threading.Lock()

    def __call__(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Return a copy of the first output: the next pass overwrites the original."""
        with self._turn:
            self.request.infer([x])
            output: npt.NDArray[np.floating[Any]] = self.request.get_output_tensor(0).data.copy()
            return output


def compile_graph(graph: Any, precision: str, threads: int | None) -> Any:
    """Compile a graph for the CPU."""
    return core().compile_model(graph, "CPU", _settings(precision, threads))


def _settings(precision: str, threads: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # otherwise every process binds its threads to the same first cores
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _name_of(*content: str) -> str:
    """Hash everything that a compiled graph depends on: the file's content, OpenVINO's version and the kind of CPU."""
    cpu = [core().get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    return hashlib.sha256(json.dumps([*content, version("openvino"), *cpu]).encode()).hexdigest()[:24]


def _load_compiled(cache: Path, name: str, compile_file: Callable[[], Any], threads: int | None, is_large: bool) -> Any:
    """Read a compiled graph from the cache, or compile and save it."""
    import openvino

    def write(folder: Path) -> None:
        with waiting_for("compiling the network for this CPU, once per weights and machine", at_once=is_large):
            compile_file().export_model(exported := io.BytesIO())
        (folder / BLOB).write_bytes(exported.getbuffer())

    def read(folder: Path) -> Any:
        blob = np.memmap(folder / BLOB, np.uint8, "r")
        return core().import_model(openvino.Tensor(blob), "CPU", _settings("fp32", threads))

    return read_cached(cache, name, write, read, compile_file)


@functools.cache
def core() -> Any:
    """Return OpenVINO's core, one per process."""
    import openvino

    return openvino.Core()
