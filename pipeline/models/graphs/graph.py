"""Run a prebuilt graph in ONNX Runtime, on NumPy arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from pipeline.concurrency import local_cpus
from pipeline.errors import SegmentError
from pipeline.models.engines.ort import RUN_ERRORS, session_options
from pipeline.models.failures import first_line
from pipeline.models.graphs.bundled import index
from pipeline.models.refiners.refine_tiles import Tile
from pipeline.paths import WEIGHTS


class Graph:
    """One of the package's graphs. Threads may share it.

    Args:
        name: File name of the graph.
        threads: Threads of an operation; default: all cores.
    """

    def __init__(self, name: str, threads: int | None) -> None:
        self.name = name
        self.session = onnxruntime.InferenceSession(
            str(WEIGHTS / name), session_options(threads), providers=["CPUExecutionProvider"]
        )
        self.inputs = [one.name for one in self.session.get_inputs()]

    def __call__(self, *inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the graph's outputs for its inputs, in order.

        Raises:
            SegmentError: The graph failed, or ran out of memory.
        """
        try:
            outputs: list[npt.NDArray[Any]] = self.session.run(None, dict(zip(self.inputs, inputs, strict=True)))
        except RUN_ERRORS as error:
            raise SegmentError(f"the graph {self.name} failed: {first_line(error)}") from error
        return outputs


class GraphRefiner:
    """A refiner as a graph: ``guided``, or ``cgm`` with the bundled weights.

    Args:
        name: As ``recipe.refiner``.
        threads: Tiles that are computed at a time, each by one thread; default: one per core.
    """

    def __init__(self, name: str, threads: int | None) -> None:
        self.graph = Graph(f"{name}.onnx", 1)
        self.each = ThreadPoolExecutor(threads or local_cpus(), "refiner").map
        made = index()[self.graph.name]
        self.halo_cells, self.halo_px, self.step_px = (int(made[key]) for key in ("halo_cells", "halo_px", "step_px"))

    def __call__(self, tile: Tile) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See ``Refiner``."""
        alpha, weight = self.graph(*tile)
        return alpha, weight
