"""The steps around a model on a GPU: images to the device, frames, masks, and masks back to the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from pipeline.bench.photos import noise
from pipeline.bench.timing import time_calls
from pipeline.imaging.frame import place
from pipeline.models.forward import to_device, to_host
from pipeline.models.host_frames import HostFrames
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.prepare import prepare_refinements
from pipeline.models.resample import DeviceFrames
from pipeline.segmenter import Segmenter


@dataclass(frozen=True)
class Transfers:
    """The milliseconds that each step takes per image, for images of one size."""

    preset: str
    precision: str
    width: int
    height: int
    batch: int
    ms: dict[str, float]
    images_per_s: float
    """Images per second of ``Segmenter.segment``, by one process."""
    busy: float
    """About the share of that time in which the GPU works; two actors per GPU (``compute.gpus_per_actor=0.5``) use the rest."""


def measure_transfers(segmenter: Segmenter, for_s: float, size: tuple[int, int] = (3000, 4000)) -> Transfers:
    """Time every step for images of this height and width: on the device, on the host, and all of them together."""
    model, recipe, device = segmenter.model, segmenter.recipe, segmenter.model.device
    image = noise(1, *size)[0]
    batch, placed = [image] * segmenter.batch, [place(size, None, recipe)]
    on_device, on_host = DeviceFrames(recipe, device), HostFrames(recipe)
    frames = on_device.frames(batch, placed * segmenter.batch)
    p = model(frames).sigmoid()[:1]
    (mask,), (alpha,) = on_device.masks(p, placed, [None]), to_host(p)
    steps: dict[str, Callable[[], object]] = {
        "image to the device": lambda: to_device(image, device),
        "image to frame, on the device": lambda: on_device.frames([image], placed),
        "image to frame, on the host": lambda: on_host.frames([image], placed),
        "alpha to mask, on the device": lambda: on_device.masks(p, placed, [None]),
        "the same with refiner guided": lambda: on_device.masks(
            p, placed, prepare_refinements(Guided(), [image], placed, frames[:1], p)
        ),
        "mask to the host": lambda: to_host(mask),
        "alpha to mask, on the host": lambda: on_host.masks(alpha, placed, [None]),
        "forward pass": lambda: model(frames),
        "segment: all of it": lambda: segmenter.segment(batch, [None] * segmenter.batch),
    }
    ms = {name: 1e3 * median(time_calls(step, for_s=for_s, min_calls=3, device=device.type)) for name, step in steps.items()}
    for name in ("forward pass", "segment: all of it"):
        ms[name] /= segmenter.batch
    total_ms = ms["segment: all of it"]
    busy_ms = ms["image to frame, on the device"] + ms["the same with refiner guided"] + ms["forward pass"]
    height, width = size
    return Transfers(
        recipe.name, recipe.precision, width, height, segmenter.batch, ms, 1e3 / total_ms, min(1.0, busy_ms / total_ms)
    )
