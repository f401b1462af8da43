"""The model alone: frames in, logits out, with nothing around it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bench.clock import seconds
from pipeline.bench.machine import Rate
from pipeline.bench.subject import Subject
from pipeline.config.recipe import Recipe
from pipeline.errors import SegmentError
from pipeline.models.load import Model
from pipeline.models.mvanet.network import BEN2, MVANet
from pipeline.segmenter import Segmenter
from pipeline.storage.files import Files

WARM_ENOUGH_S = 5.0


@dataclass(frozen=True)
class Alone:
    """One preset at one batch size."""

    preset: str
    engine: str
    precision: str
    weights: str
    """``own`` or ``stand-in``."""
    device: str
    threads: int
    frame_px: int
    batch: int
    s_per_item: float
    """The median of the repetitions."""
    items_per_s: float
    gflop_per_item: float | None
    """Multiplications and additions of products and convolutions; None where nothing counts them (ONNX files)."""
    gflops: float | None
    share: float | None
    """Of the machine's rate in this precision."""


def models_alone(subject: Subject, rates: Mapping[str, Rate], batches: Sequence[int], for_s: float) -> Iterator[Alone]:
    """The model at these batches, in this order, as far as memory allows.

    Raises:
        WeightsError, ConfigError: as ``load_model``.
        SegmentError: not even the first batch could be computed.
    """
    recipe = subject.job.recipe
    model = open_model(subject)
    gflop = flop_per_item(recipe.frame_px) / 1e9 if recipe.model == "mvanet" else None
    rate = rates.get(recipe.precision)
    for batch in batches:
        try:
            s_per_item = time_model(model, batch, for_s)
        except SegmentError:
            if batch == batches[0]:
                raise
            return
        gflops = None if gflop is None else gflop / s_per_item
        yield Alone(
            preset=recipe.name,
            engine=model.engine,
            precision=recipe.precision,
            weights=subject.weights,
            device=model.device.type,
            threads=subject.threads,
            frame_px=recipe.frame_px,
            batch=batch,
            s_per_item=s_per_item,
            items_per_s=1 / s_per_item,
            gflop_per_item=gflop,
            gflops=gflops,
            share=gflops / rate.gflops if gflops and rate else None,
        )


def open_model(subject: Subject) -> Model:
    """The model as an actor of the job loads it.

    Raises:
        WeightsError, ConfigError: as ``load_model``.
    """
    job, device = subject.job, subject.pool.device
    files, engine = Files(job.storage), job.compute.engine
    return Segmenter.from_recipe(job.recipe, files, device=device, threads=subject.threads, engine=engine).model


def seconds_per_item(
    recipe: Recipe, files: Files, *, device: str, threads: int | None, batch: int, engine: str = "auto"
) -> float:
    """For an estimate: one batch of noise with its way to the frame and back, after a first image.

    From the first one alone, where that took long enough.
    """
    segmenter = Segmenter.from_recipe(recipe, files, device=device, threads=threads, engine=engine)
    images = list(_noise(batch, recipe.frame_px))
    for number in (1, batch):
        start = time.perf_counter()
        segmenter.segment(images[:number], [None] * number)
        took_s = time.perf_counter() - start
        if took_s > WARM_ENOUGH_S:
            break
    return took_s / number


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4 … up to ``most``."""
    return [2**power for power in range(most.bit_length())]


def time_model(model: Model, batch: int, for_s: float) -> float:
    """Seconds an item of a forward pass over noise: the median of its repetitions, after a first one.

    Raises:
        SegmentError: it failed, or is too much for the memory.
    """
    frames = _noise(batch, model.frame_px)

    def forward() -> None:
        if model(frames).is_cuda:
            torch.cuda.synchronize()

    return float(np.median(seconds(forward, for_s=for_s))) / batch


def _noise(batch: int, side: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)


@functools.cache
def flop_per_item(frame_px: int) -> float:
    """Floating point operations of MVANet's products and convolutions, as the network of the package needs them.

    Counted without computing anything; the layouts don't differ in it, nor do the engines that run the network.
    """
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        MVANet(BEN2).eval()(torch.empty(1, 3, frame_px, frame_px))
    return float(counter.get_total_flops())
