"""Networks as frozen graphs in OpenVINO: the same numbers, on a CPU faster than by anything else here.

MVANet's graph is made from the network itself (``torch.export``), so there is one model to read and nothing to keep in step.
Making it takes half a minute, so it is kept on disk, named by all that it depends on. OpenVINO's frontend is called
directly: its ``convert_model`` would report its use over the network.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import importlib.util
import json
import logging
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.log import log

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""``recipe.precision`` as OpenVINO names it."""

GRAPH_VERSION = 1
"""Part of every cached graph's name. Raise it when a change of the network code changes what the graph computes."""


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def has_bf16() -> bool:
    """Whether OpenVINO finds bf16 instructions on this machine's CPU; without them it would compute in fp32 unasked."""
    return has_openvino() and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def check_engine(name: str, own: str) -> None:
    """Refuse an engine that no machine could run such weights with.

    Raises:
        ConfigError: it is for another kind of file.
    """
    if name not in ("auto", "openvino", own):
        raise ConfigError(f"compute.engine={name} can't run weights of this kind; use auto, {own} or openvino")


def choose_engine(name: str, own: str, device: torch.device) -> str:
    """What runs a model here: ``openvino`` on a CPU where it is installed, else its ``own`` engine.

    Args:
        name: ``compute.engine``; ``auto`` leaves it to this function.
        own: the engine of such a weights file without OpenVINO.

    Raises:
        ConfigError: as ``check_engine``; OpenVINO for a GPU, or where it isn't installed.
    """
    check_engine(name, own)
    if name == "openvino" and device.type != "cpu":
        raise ConfigError(f"compute.engine=openvino is for CPUs; use compute.engine={own} on a GPU, or compute.device=cpu")
    if name == "openvino" and not has_openvino():
        raise ConfigError(f"compute.engine=openvino needs one more package: pip install openvino; or use compute.engine={own}")
    return "openvino" if name != own and device.type == "cpu" and has_openvino() else own


class OpenVinoModel:
    """A network's forward pass in OpenVINO, image by image: a CPU is full with one.

    Args:
        make: gives the network, in fp32; only called if its graph isn't kept yet.
        weights_sha256: of the file that it comes from.
        frame_px: side of its frames.
        precision: ``fp32`` or ``bf16`` (matrix products, convolutions and all between them).
        threads: of one forward pass; absent, all cores.
        cache: where graphs are kept; absent, nowhere.
        channels: of its frames.

    Raises:
        ConfigError: bf16 on a CPU that has no instructions for it.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        weights_sha256: str,
        frame_px: int,
        precision: str,
        *,
        threads: int | None,
        cache: Path | None,
        channels: int = 3,
    ) -> None:
        if precision == "bf16" and not has_bf16():
            raise ConfigError("this machine's CPU has no bf16 instructions; use recipe.precision=fp32, or other machines")
        self.request = _compiled(_graph(make, weights_sha256, (channels, frame_px), cache), precision, threads)
        if cache is not None:
            _forget_pages(cache)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, S, S) float32 to what the network makes of it, float32."""
        return torch.cat([self._image(image[None]) for image in x])

    def _image(self, x: Tensor) -> Tensor:
        return torch.from_numpy(_infer(self.request, x.contiguous().numpy()))


class OpenVinoFile:
    """An ONNX file's network in OpenVINO, in fp32 and image by image.

    Args:
        path: the file; nothing outside it is read.
        given, output: names of the graph's input (1, 3, S, S) and of the output that is wanted; others aren't computed.
        threads: of one forward pass; absent, all cores.

    Raises:
        RuntimeError: OpenVINO can't read it or run it.
    """

    def __init__(self, path: Path, given: str, output: str, frame_px: int, threads: int | None) -> None:
        import openvino

        read = _core().read_model(path)
        graph = openvino.Model([read.output(output)], read.get_parameters())
        graph.reshape({given: [1, 3, frame_px, frame_px]})
        self.request = _compiled(graph, "fp32", threads)

    def __call__(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """(1, 3, S, S) in the graph's type to its output.

        Raises:
            RuntimeError: it failed.
        """
        return _infer(self.request, x)


def _compiled(graph: Any, precision: str, threads: int | None) -> Any:
    """An OpenVINO model as something to call, on the CPU."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # else every process binds its threads to the same first cores
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return _core().compile_model(graph, "CPU", settings).create_infer_request()


def _infer(request: Any, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """The first output, as a copy: the next pass writes into the same memory."""
    request.infer([x])
    found: npt.NDArray[np.floating[Any]] = request.get_output_tensor(0).data.copy()
    return found


def _graph(make: Callable[[], nn.Module], weights_sha256: str, seen: tuple[int, int], cache: Path | None) -> Any:
    """The graph from where it is kept, made and kept first if need be, by one process of a machine at a time."""
    if cache is None:
        return convert(make(), *seen)
    kept = cache / _key(weights_sha256, seen)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if not _is_whole(kept):
                log.info("the network is made ready for this CPU, once for these weights and this frame")
                _keep(convert(make(), *seen), kept)
                gc.collect()
        return _core().read_model(kept / "graph.xml")
    except OSError as error:
        log.warning(f"no graphs can be kept in {cache} ({error}), so each process makes its own")
        return convert(make(), *seen)


def convert(network: nn.Module, channels: int, frame_px: int) -> Any:
    """A network as OpenVINO's model for one frame (1, C, S, S) in float32."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.passes import ConstantFolding, Manager

    with torch.inference_mode(False):
        exported = torch.export.export(network, (torch.zeros(1, channels, frame_px, frame_px),))
        with _quiet():
            decoder = TorchFXPythonDecoder.from_exported_program(exported)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape([1, channels, frame_px, frame_px])  # the frontend leaves it open, and what is open can't be planned for
    passes = Manager()
    passes.register_pass(ConstantFolding())  # once here, not in the memory of every process that reads the graph
    passes.run_passes(model)
    return model


def _forget_pages(folder: Path) -> None:
    """Give back what was read of the mapped files there: their constants lie in OpenVINO's own order by now.

    Until the system is short of memory it would count as this process's. What is wanted again is read again.
    """
    with suppress(OSError, AttributeError):  # another system than Linux
        maps = Path("/proc/self/maps").read_text()
        advise, within = ctypes.CDLL(None).madvise, f"{folder.resolve()}/"
        for line in maps.splitlines():
            span, rights, *_, path = line.split(maxsplit=5)
            if path.startswith(within) and rights[1] == "-":
                start, end = (int(address, 16) for address in span.split("-"))
                advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _keep(model: Any, kept: Path) -> None:
    """Write the graph, whole or not at all."""
    import openvino

    part = Path(tempfile.mkdtemp(prefix=f"{kept.name}.", dir=kept.parent))
    try:
        openvino.save_model(model, part / "graph.xml", compress_to_fp16=False)
        (part / "sha256.json").write_text(json.dumps(_hashes(part)))
        shutil.rmtree(kept, ignore_errors=True)
        part.rename(kept)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_whole(kept: Path) -> bool:
    try:
        return bool(json.loads((kept / "sha256.json").read_text()) == _hashes(kept))
    except (OSError, ValueError):
        return False


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for name in ("graph.xml", "graph.bin"):
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _key(weights_sha256: str, seen: tuple[int, int]) -> str:
    """Return the name of a cached graph: weights, input shape, graph version, and versions of the libraries that make it."""
    made_with = " ".join(f"{library} {version(library)}" for library in ("openvino", "torch", "timm"))
    return hashlib.sha256(f"{weights_sha256} {seen} {GRAPH_VERSION} {made_with}".encode()).hexdigest()[:24]


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


@contextmanager
def _quiet() -> Iterator[None]:
    """OpenVINO's decoder warns of operations that its own table lacks, which is of no consequence."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
