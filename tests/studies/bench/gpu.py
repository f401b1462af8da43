"""What a GPU makes of MVANet, and what the way there and back costs it: ``make bench-gpu`` prints two tables.

The network is BEN2's with stand-in weights (its speed doesn't depend on its numbers), called as the pipeline calls it: uint8
frames on the device in, logits out. ``graph`` is the same call captured once as a CUDA graph and replayed, which shows what
launching costs; ``compile`` is the network through ``torch.compile``, one batch size at a time.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.bench.clock import seconds
from pipeline.bench.dummy_weights import write_standin
from pipeline.bench.model import flop_per_item
from pipeline.config.presets import load_preset
from pipeline.errors import PipelineError
from pipeline.imaging.frame import place
from pipeline.models.forward import to_device, to_host
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import prepare_refinements
from pipeline.models.resample import DeviceFrames
from pipeline.segmenter import HostFrames, Segmenter
from pipeline.storage.files import Files

PHOTO = (3000, 4000)
"""Height and width of the image that goes there and back: 12 megapixels."""

NO_GPU = "PyTorch finds no CUDA GPU on this machine, so there is nothing to measure; run `make bench-gpu` on one that has one."

Work = Callable[[], torch.Tensor]


def main(arguments: Sequence[str]) -> int:
    """Both tables; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "fp16"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--frame-px", type=int, default=1024)
    parser.add_argument("--for-s", type=float, default=2.0, help="seconds for each number")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    print(f"{device.name}, {device.total_memory / 2**30:.0f} GiB; PyTorch {torch.__version__}, CUDA {torch.version.cuda}\n")
    with tempfile.TemporaryDirectory() as folder:
        weights = write_standin("ben2-base", Path(folder))
        for precision in asked.precisions:
            changes = {"weights": str(weights), "precision": precision, "frame_px": asked.frame_px}
            try:
                recipe = load_preset("ben2-base", changes).recipe
                segmenter = Segmenter.from_recipe(recipe, Files(), device="cuda")
            except PipelineError as error:
                print(f"{precision}: {error}")
                continue
            print("\n".join(forwards(segmenter.model, precision, asked.ways, asked.batches, asked.for_s)), end="\n\n")
            print("\n".join(there_and_back(segmenter, asked.for_s)), end="\n\n")
            del segmenter
            torch.cuda.empty_cache()
    return 0


def eager(model: Any, frames: torch.Tensor) -> Work:
    """The call as it is."""
    return lambda: model(frames)


def captured(model: Any, frames: torch.Tensor) -> Work:
    """The call as a CUDA graph; capturing fails if anything in it waits for the device or copies from the host."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # tables of this size, and cuDNN's choices, are made before
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


def compiled(model: Any, frames: torch.Tensor) -> Work:
    """The call with its network compiled for this shape; the first one takes minutes."""
    torch.compiler.reset()
    model(frames)  # leaves the attention windows, which torch.compile takes as they are
    model = copy.copy(model)
    model.network = torch.compile(model.network, dynamic=False)
    return lambda: model(frames)


WAYS = {"eager": eager, "graph": captured, "compile": compiled}


def forwards(model: Any, precision: str, ways: Sequence[str], batches: Sequence[int], for_s: float) -> Iterator[str]:
    """A line for every way and batch: the median pass, what it makes of the GPU, and what memory it takes at most."""
    tflop = flop_per_item(model.frame_px) / 1e12
    yield f"{precision}: {tflop:.2f} TFLOP a frame of {model.frame_px} px"
    yield f"{'way':<8} {'batch':>5} {'items/s':>8} {'ms/item':>8} {'TFLOP/s':>8} {'peak GiB':>8} {'off eager':>9}"
    for way in ways:
        for batch in batches:
            frames = to_device(noise(batch, model.frame_px, model.frame_px), model.device)
            try:
                expected = eager(model, frames)()
                restart_peak(model.device)
                work = WAYS[way](model, frames)
                each_s = median(work, model.device, for_s) / batch
                off = (work().sigmoid() - expected.sigmoid()).abs().max().item()
            except (PipelineError, RuntimeError) as error:
                yield f"{way:<8} {batch:>5} {(str(error) or type(error).__name__).splitlines()[0][:80]}"
                continue
            peak = torch.cuda.max_memory_allocated() / 2**30 if model.device.type == "cuda" else float("nan")
            yield (f"{way:<8} {batch:>5} {1 / each_s:8.1f} {1e3 * each_s:8.2f} {tflop / each_s:8.1f} {peak:8.2f} {off:9.1e}")


def there_and_back(segmenter: Segmenter, for_s: float) -> Iterator[str]:
    """A line for every step around the model, on the device and on the host, and for the whole of it."""
    model, recipe, device = segmenter.model, segmenter.recipe, segmenter.model.device
    image = noise(1, *PHOTO)[0]
    placed = [place(PHOTO, None, recipe)]
    ours, hosts = DeviceFrames(recipe, device), HostFrames(recipe)
    frames = ours.frames([image] * segmenter.batch, placed * segmenter.batch)
    p = model(frames).sigmoid()[:1]
    (mask,) = ours.masks(p, placed, [None])
    steps: dict[str, Callable[[], object]] = {
        "image to the device": lambda: to_device(image, device),
        "image to frame, with it": lambda: ours.frames([image], placed),
        "the same on the host": lambda: hosts.frames([image], placed),
        "alpha to mask": lambda: ours.masks(p, placed, [None]),
        "alpha to mask, refined": lambda: ours.masks(p, placed, prepare_refinements(Guided(), [image], placed, frames[:1], p)),
        "mask to the host": lambda: to_host(mask),
        "both on the host": lambda: hosts.masks(p, placed, [None]),
        "forward": lambda: model(frames),
        "segment: all of it": lambda: segmenter.segment([image] * segmenter.batch, [None] * segmenter.batch),
    }
    took_s = {name: median(step, device, for_s) for name, step in steps.items()}
    for name in ("forward", "segment: all of it"):
        took_s[name] /= segmenter.batch
    yield f"{PHOTO[1]} x {PHOTO[0]} px, {segmenter.batch} at once"
    yield from (f"{name:<26} {1e3 * one_s:8.2f} ms" for name, one_s in took_s.items())
    whole_s = took_s["segment: all of it"]
    busy = (took_s["image to frame, with it"] + took_s["alpha to mask, refined"] + took_s["forward"]) / whole_s
    yield f"{1 / whole_s:.1f} images/s by one process, with the GPU busy for about {min(busy, 1):.0%} of the time"
    if busy < 0.8:
        yield "two copies of the model on it would use the rest: compute.gpus_per_actor=0.5"


def noise(batch: int, height: int, width: int) -> Any:
    """(batch, height, width, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)


def median(work: Callable[[], object], device: torch.device, for_s: float) -> float:
    """Seconds of one call, with the wait for what it started."""

    def waited() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return float(np.median(seconds(waited, for_s=for_s, least=3)))


def restart_peak(device: torch.device) -> None:
    """Count the memory's peak from here."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
