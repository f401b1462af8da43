"""A pass: from images to masks and the measurements behind their scores. It has two implementations.

``graph_pass`` runs prebuilt graphs, ONNX files and the fake model on a CPU, without PyTorch. ``torch_pass`` runs everything
else: GPUs, other precisions than fp32, and weights that no graph was made from. Both compute the same functions: graphs are
exported from those of ``torch_pass``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.imaging.frame import Placement
from pipeline.models.devices import effective_device
from pipeline.models.graphs.bundled import runs_in_graphs
from pipeline.models.resolve import ResolvedRecipe
from pipeline.types import Mask, Pixels


class PassResult(NamedTuple):
    """The results of one pass, with one entry per image."""

    table: npt.NDArray[np.float32]
    """(N, signals); see ``signal_names.signals_by_name``."""
    coarse: npt.NDArray[np.uint8]
    """(N, s, s) of 0 and 1: small masks, in which connected components are counted."""
    masks: Sequence[Mask]


class Pass(Protocol):
    """A loaded model with everything around it. Threads may share it."""

    model: Any
    """The model alone: it maps frames to logits, of tensors or of arrays; it has ``frame_px``, ``engine`` and ``device``."""
    device: str
    """``cpu`` or ``cuda``."""

    def __call__(self, images: Sequence[Pixels], placements: Sequence[Placement], boxes: npt.NDArray[np.float32]) -> PassResult:
        """Process a batch.

        Args:
            images: (H, W, 3) uint8 each, of any sizes.
            placements: The part of each image that fills its frame.
            boxes: (N, 4): the prompts' boxes in pixels of the frame, NaN for an image without one.

        Raises:
            SegmentError: The pass failed or ran out of memory.
            BrokenDevice: The GPU is lost.
        """
        ...

    def memory(self) -> dict[str, int]:
        """Return the bytes of GPU memory in use, by kind; empty on a CPU."""
        ...


def load_pass(resolved: ResolvedRecipe, *, device: str, threads: int | None, engine: str) -> Pass:
    """Load a recipe's model and what works around it.

    Args:
        resolved: The recipe with its files.
        device: ``auto`` (CUDA if the model can run on it), ``cpu`` or ``cuda``.
        threads: CPU threads of an operation; default: the library's choice.
        engine: As ``compute.engine``.

    Raises:
        ConfigError: The device is missing, or cannot compute in the recipe's precision; or this process is a fork of one that
            had loaded a model.
        WeightsError: A file cannot be used.
    """
    if runs_in_graphs(resolved.recipe, effective_device(device, resolved.recipe.model), engine):
        from pipeline.models.graph_pass import GraphPass

        return GraphPass(resolved, threads=threads, engine=engine)
    from pipeline.models.torch_pass import TorchPass  # imports PyTorch

    return TorchPass(resolved, device=device, threads=threads, engine=engine)
