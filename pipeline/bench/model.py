"""The speed of a model alone: frames in, logits out."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bench.photos import noise
from pipeline.bench.subject import Subject
from pipeline.bench.timing import time_calls
from pipeline.errors import SegmentError
from pipeline.log import log
from pipeline.models.forward import to_device
from pipeline.models.load import Model
from pipeline.models.mvanet.checkpoint import load_mvanet

Forward = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class ModelSpeed:
    """The speed of one preset at one batch size."""

    preset: str
    engine: str
    mode: str
    """``eager``: as the job calls it. On a GPU also ``graph`` (a replayed CUDA graph) and ``compile`` (``torch.compile``)."""
    precision: str
    weights: str
    """``own`` or ``dummy``."""
    threads: int
    batch: int
    s_per_item: float
    """Median of the calls, per item."""
    items_per_s: float
    gflops: float | None
    """GFLOP/s of its products and convolutions; None where they can't be counted (ONNX files)."""
    share: float | None
    """``gflops`` ÷ the machine's rate in this precision."""
    peak_gib: float | None
    """Peak of allocated GPU memory; None on a CPU."""
    max_difference: float
    """Largest difference of alpha from eager mode's."""


def measure_model(
    subject: Subject, rates: Mapping[str, float], batches: Sequence[int], for_s: float, modes: Sequence[str] = ("eager",)
) -> Iterator[ModelSpeed]:
    """Measure a model in each mode at these batch sizes, up to the first size that fails.

    Raises:
        WeightsError, ConfigError: As ``load_model``.
        SegmentError: The very first batch failed.
    """
    recipe, segmenter = subject.job.recipe, subject.load()
    model, weights = segmenter.model, segmenter.resolved.weights
    flop = flop_per_item(weights, recipe.frame_px) if recipe.model == "mvanet" and weights else None
    for mode in modes:
        for batch in batches:
            try:
                s_per_item, peak_gib, difference = _measure(model, batch, for_s, mode)
            except (SegmentError, RuntimeError) as error:
                if (mode, batch) == (modes[0], batches[0]):
                    raise
                reason = (str(error) or type(error).__name__).splitlines()[0]
                log.warning(f"{recipe.name} in {recipe.precision}, {mode}, batch size {batch}: {reason}")
                break
            gflops = None if flop is None else flop / 1e9 / s_per_item
            yield ModelSpeed(
                preset=recipe.name,
                engine=model.engine,
                mode=mode,
                precision=recipe.precision,
                weights=subject.weights,
                threads=subject.threads,
                batch=batch,
                s_per_item=s_per_item,
                items_per_s=1 / s_per_item,
                gflops=gflops,
                share=gflops / rates[recipe.precision] if gflops and recipe.precision in rates else None,
                peak_gib=peak_gib,
                max_difference=difference,
            )


def _measure(model: Model, batch: int, for_s: float, mode: str) -> tuple[float, float | None, float]:
    """Return seconds per item, the peak of GPU memory in GiB, and the largest difference of alpha from eager mode's."""
    cuda = _device(model) == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    frames = _frames(model, batch)
    forward = MODES[mode](model, frames)
    s_per_item = _time_forward(forward, model, for_s) / batch
    peak_gib = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    difference = 0.0 if mode == "eager" else float((forward().sigmoid() - model(frames).sigmoid()).abs().max())
    return s_per_item, peak_gib, difference


def time_model(model: Model, batch: int, for_s: float) -> float:
    """Return the seconds per item of a forward pass over noise: the median of the calls after a first one.

    Raises:
        SegmentError: It failed, or memory was too small.
    """
    return _time_forward(_eager(model, _frames(model, batch)), model, for_s) / batch


def _time_forward(forward: Forward, model: Model, for_s: float) -> float:
    return median(time_calls(forward, for_s=for_s, device=_device(model)))


def _frames(model: Model, batch: int) -> Any:
    """Return noise where the job has its frames: in an array on a CPU, on the device on a GPU."""
    frames = noise(batch, model.frame_px, model.frame_px)
    return to_device(frames, model.device) if _device(model) == "cuda" else frames


def _device(model: Model) -> str:
    """Return the type of a model's device, whether the model is PyTorch's or a graph."""
    return str(model.device).partition(":")[0]


def _eager(model: Model, frames: Any) -> Forward:
    return lambda: model(frames)


def _capture(model: Model, frames: Any) -> Forward:
    """Capture the call as a CUDA graph. Capturing fails if the call waits for the device or copies from the host."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # fills the caches by shape and lets cuDNN choose its algorithms
        for _ in range(3):
            model(frames)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(frames)

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay


def _compile(model: Any, frames: Any) -> Forward:
    """Compile the network for this shape; the first call takes minutes."""
    torch.compiler.reset()
    model(frames)  # fills the cache of attention windows, which torch.compile can't trace
    model = copy.copy(model)
    model.network = torch.compile(model.network, dynamic=False)
    return lambda: model(frames)


MODES: dict[str, Callable[[Model, Any], Forward]] = {"eager": _eager, "graph": _capture, "compile": _compile}


@functools.cache
def flop_per_item(weights: Path, frame_px: int) -> float:
    """Count the floating point operations of an MVANet's products and convolutions per image, without computing anything.

    The count is the same for all engines.
    """
    network = load_mvanet(weights, device=torch.device("meta"), dtype=torch.float32)
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, frame_px, frame_px))
    return float(counter.get_total_flops())
