"""Convert a network from PyTorch to OpenVINO: the same numbers, and faster on a CPU.

The graph is converted from the network itself (``torch.export``), so there is one implementation. Conversion takes about 20 s,
so graphs are cached on disk, under a hash of everything that they depend on. OpenVINO's frontend is called directly:
``convert_model`` would report its use over the network.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.log import waiting_for
from pipeline.models.engines.conversions import graph_name, making
from pipeline.models.engines.graph_cache import read_cached
from pipeline.models.engines.openvino import Inference, compile_graph, core, has_bf16


class OpenVinoModel:
    """A network's forward pass in OpenVINO, image by image: one image uses all cores.

    Args:
        build: Returns the network in fp32; called only if its graph is not in the cache.
        weights_sha256: Hash of the weights file.
        weights_bytes: Size of the weights file: it tells how long the conversion takes.
        frame_px: Side of the frames.
        precision: ``fp32`` or ``bf16`` (matrix products, convolutions and everything between them).
        threads: Threads per forward pass; default: all cores.
        cache: Folder of cached graphs; None: no cache.

    Raises:
        ConfigError: bf16 on a CPU without bf16 instructions.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        weights_sha256: str,
        frame_px: int,
        precision: str,
        *,
        threads: int | None,
        cache: Path | None,
        weights_bytes: int = 0,
    ) -> None:
        if precision == "bf16" and not has_bf16():
            raise ConfigError("this machine's CPU has no bf16 instructions; use recipe.precision=fp32, or other machines")
        graph = _load_graph(build, weights_sha256, weights_bytes, frame_px, cache)
        self.infer = Inference(compile_graph(graph, precision, threads))
        if cache is not None:
            _drop_mapped_pages(cache)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) float32 to the network's output, float32."""
        outputs = [self.infer(image[None].contiguous().numpy()) for image in x]
        return torch.cat([torch.from_numpy(output) for output in outputs])


def _load_graph(
    build: Callable[[], nn.Module], weights_sha256: str, weights_bytes: int, frame_px: int, cache: Path | None
) -> Any:
    """Read the graph from the cache, or convert it."""

    def make() -> Any:
        with waiting_for(making(weights_bytes)):
            return convert(build(), frame_px)

    def write(folder: Path) -> None:
        import openvino

        openvino.save_model(make(), folder / "graph.xml", compress_to_fp16=False)
        gc.collect()

    if cache is None:
        return make()
    name = graph_name(weights_sha256, frame_px)
    return read_cached(cache, name, write, lambda folder: core().read_model(folder / "graph.xml"), make)


def convert(network: nn.Module, frame_px: int) -> Any:
    """Convert a network to OpenVINO's model for one frame (1, 3, S, S) in float32."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
    from openvino.passes import ConstantFolding, Manager

    with torch.inference_mode(False):
        exported = torch.export.export(network, (torch.zeros(1, 3, frame_px, frame_px),))
        with mute_warnings():  # of operations that the decoder's own table lacks, without effect
            decoder = TorchFXPythonDecoder.from_exported_program(exported)
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape([1, 3, frame_px, frame_px])  # with the frontend's dynamic shape, memory could not be planned
    passes = Manager()
    passes.register_pass(ConstantFolding())  # once here, not in the memory of every process that reads the graph
    passes.run_passes(model)
    return model


@contextmanager
def mute_warnings() -> Iterator[None]:
    """Disable log records up to warnings, of all loggers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _drop_mapped_pages(folder: Path) -> None:
    """Release the resident pages of mapped graph files: OpenVINO has copied the constants into its own layout.

    For BEN2 in fp32 this saves 0.26 of 2.20 GB per process.
    """
    with suppress(OSError, AttributeError):  # Linux only
        maps = Path("/proc/self/maps").read_text()
        madvise, prefix = ctypes.CDLL(None).madvise, f"{folder.resolve()}/"
        for line in maps.splitlines():
            span, permissions, *_, path = line.split(maxsplit=5)
            if path.startswith(prefix) and permissions[1] == "-":
                start, end = (int(address, 16) for address in span.split("-"))
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
