"""Train the refiner ``cgm``: ``python -m pipeline.training.refiner --data FOLDER``. The same command resumes.

Other processes make scenes all the time, from the training split of the material and permissive licences only. A buffer holds
crops of them, and each crop is used a few times, mirrored and turned. Every few minutes the moving average of the weights is
validated on scenes that it is never trained on, and the learning curve gets a row.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import multiprocessing
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.models.refiners.cgm import BASE, GUIDED, STEP_PX, WEIGHT, Cgm, tile_inputs
from pipeline.models.refiners.guided import HALO_CELLS, on_device
from pipeline.models.refiners.refine_tiles import view_of
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.training.distributed import use_one_thread
from pipeline.training.material import PERMISSIVE, Material
from pipeline.training.reporting import append_row
from pipeline.training.scenes import FACTORS, FINISHES, KINDS, Scene, make_scene

TRAINING_FACTORS = (2, 3, 4, 4, 6, 8)
"""Sizes of scenes to train on, as factors of the model's frame; a size that stands twice is drawn twice as often."""

VALIDATION_SEEDS = 10_000_000
"""Seeds from here on are for validation."""

ALIVE_S = 10.0
"""Seconds between two looks at whether the processes that make scenes are alive."""


@dataclass(frozen=True)
class Settings:
    """Settings that change the weights; ``settings.json`` keeps them."""

    seed: int = 1
    crop_px: int = 160
    crops_per_scene: int = 6
    batch: int = 16
    buffer: int = 4000
    """Crops in the buffer; new ones replace the oldest."""
    times: float = 3.0
    """Average number of times that a crop is used, at most."""
    steps: int = 12_000
    rate: float = 8e-4
    warm_steps: int = 300
    average: float = 0.999
    l1: float = 0.5
    l2: float = 3.0
    slope: float = 0.5


class Crop(NamedTuple):
    """The network's input (7, H, W), see ``cgm.stack_inputs``; the ground truth and the unknown region (H, W)."""

    inputs: Tensor
    truth: Tensor
    weight: Tensor


def crop_of(scene: Scene) -> Crop:
    """Return a complete scene as the network's input."""
    p = torch.from_numpy(scene.base)
    view = view_of(scene.image, p, torch.from_numpy(scene.frame), find_unknown(p[None])[0])
    height, width = scene.alpha.shape
    inputs = tile_inputs(*on_device(view.tile(slice(0, height), slice(0, width), HALO_CELLS)))
    return Crop(inputs, torch.from_numpy(scene.alpha), inputs[WEIGHT])


def random_crops(crop: Crop, settings: Settings, rng: np.random.Generator) -> Iterator[Crop]:
    """Yield squares of a scene with some of the unknown region in their middle."""
    side, length = settings.crop_px, crop.truth.shape[-1]
    where = torch.nonzero(crop.weight > 0.5).numpy()
    for _ in range(settings.crops_per_scene if len(where) else 0):
        centre = where[int(rng.integers(len(where)))]
        jitter = rng.integers(-side // 4, side // 4 + 1, 2)
        top, left = np.clip(centre + jitter - side // 2, 0, length - side) // STEP_PX * STEP_PX
        rows, columns = slice(top, top + side), slice(left, left + side)
        yield Crop(crop.inputs[:, rows, columns], crop.truth[rows, columns], crop.weight[rows, columns])


def produce(data: Path, settings: Settings, worker: int, first: int, out: multiprocessing.Queue[bytes]) -> None:
    """Put crops into a queue without end, as bytes of half floats."""
    use_one_thread()
    material = Material.read(data, licences=PERMISSIVE)
    for number in itertools.count(first):
        rng = np.random.default_rng([settings.seed, worker, number])
        kind, finish = KINDS[int(rng.integers(len(KINDS)))], FINISHES[int(rng.integers(len(FINISHES)))]
        scene = make_scene(material, int(rng.integers(VALIDATION_SEEDS)), kind, finish, int(rng.choice(TRAINING_FACTORS)))
        for crop in random_crops(crop_of(scene), settings, rng):
            packed = torch.cat([crop.inputs, crop.truth[None], crop.weight[None]]).half().numpy().tobytes()
            while not _put(out, packed):
                if not (parent := multiprocessing.parent_process()) or not parent.is_alive():
                    return  # the training process was killed


def _put(out: multiprocessing.Queue[bytes], data: bytes) -> bool:
    try:
        out.put(data, timeout=10)
    except queue.Full:
        return False
    return True


class CropBuffer:
    """Crops that other processes make."""

    def __init__(self, data: Path, settings: Settings, producers: int, first: int) -> None:
        self.settings, self.used, self.filled = settings, 0, 0
        self.crops = torch.empty((settings.buffer, 9, settings.crop_px, settings.crop_px), dtype=torch.float16)
        context = multiprocessing.get_context("spawn")
        self.arriving: multiprocessing.Queue[bytes] = context.Queue(64)
        self.producers = [
            context.Process(target=produce, args=(data, settings, worker, first, self.arriving), daemon=True)
            for worker in range(producers)
        ]
        for one in self.producers:
            one.start()

    def batch(self, rng: np.random.Generator) -> Tensor:
        """Return (N, 9, H, W) float32, mirrored and turned. Wait until the buffer holds enough crops.

        Raises:
            PipelineError: A process that makes them has ended.
        """
        settings = self.settings
        while True:
            try:
                enough = self.filled >= 8 * settings.batch and self.used + settings.batch <= settings.times * self.filled
                self._add(self.arriving.get(block=not enough, timeout=ALIVE_S))
            except queue.Empty:
                if enough:
                    break
                if not all(one.is_alive() for one in self.producers):
                    raise PipelineError("a process that makes scenes has ended; its message is above") from None
            if enough and self.arriving.empty():
                break
        self.used += settings.batch
        chosen = self.crops[torch.from_numpy(rng.integers(0, min(self.filled, settings.buffer), settings.batch))].float()
        chosen = torch.rot90(chosen, int(rng.integers(4)), (2, 3))
        return chosen.flip(3) if rng.random() < 0.5 else chosen

    def _add(self, data: bytes) -> None:
        place = self.crops[self.filled % self.settings.buffer]
        place.copy_(torch.frombuffer(bytearray(data), dtype=torch.float16).reshape(place.shape))
        self.filled += 1


def loss_of(alpha: Tensor, truth: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """Return the weighted sum of |Δ|, Δ² and the difference of gradients in the unknown region."""
    off = (alpha - truth) * weight
    count = weight.sum().clamp_min(1)
    across, down = off.diff(dim=2).abs().sum(), off.diff(dim=1).abs().sum()
    return (settings.l1 * off.abs().sum() + settings.l2 * off.square().sum() + settings.slope * (across + down)) / count


@torch.inference_mode()
def validate(network: Cgm, scenes: Sequence[Crop]) -> dict[str, float]:
    """Return the mean squared error in the unknown region of the enlarged base, of guided and of the network."""
    rows = []
    for crop in scenes:
        base, guided = crop.inputs[BASE], crop.inputs[GUIDED]
        refined = (guided + network(crop.inputs[None])[0]).clamp(0, 1)
        mixed = [base + crop.weight * (one - base) for one in (base, guided, refined)]
        inside = crop.weight > 0
        rows.append([float((one - crop.truth)[inside].square().mean()) for one in mixed])
    return dict(zip(("bilinear", "guided", "cgm"), np.mean(rows, 0).tolist(), strict=True))


def train(data: Path, out: Path, settings: Settings, *, hours: float, producers: int, every_s: float = 240.0) -> None:
    """Train until all steps are done or the time is over.

    Writes ``checkpoint.pt``, ``curve.csv``, ``settings.json`` and ``cgm.safetensors`` into ``out``.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    torch.manual_seed(settings.seed)
    network = Cgm().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=1e-4)
    step, spent_s = _resume(out / "checkpoint.pt", network, averaged, optimiser)
    material = Material.read(data, licences=PERMISSIVE)
    held_out = [
        crop_of(make_scene(material, VALIDATION_SEEDS + number, kind, finish, factor, split="held_out"))
        for number, (kind, finish, factor) in enumerate(itertools.product(KINDS, FINISHES, FACTORS))
    ]
    buffer = CropBuffer(data, settings, producers, 1_000_000 * (1 + int(spent_s)))
    rng = np.random.default_rng([settings.seed, step])
    start = reported = time.monotonic()
    over = step == settings.steps
    while not over:
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _rate_factor(step, settings)
        batch = buffer.batch(rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            change = network(batch[:, :7].contiguous(memory_format=torch.channels_last))
        loss = loss_of(batch[:, GUIDED] + change.float(), batch[:, 7], batch[:, 8], settings)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            decay = min(settings.average, step / (step + 10))
            for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        at = time.monotonic()
        over = step == settings.steps or at - start > 3600 * hours
        if over or at - reported > every_s:
            reported = at
            seconds = spent_s + reported - start
            errors = validate(averaged, held_out)
            _save(out, network, averaged, optimiser, step, seconds)
            row = {"step": step, "seconds": round(seconds), "crops": buffer.filled, "loss": float(loss.detach())}
            print(append_row(out / "curve.csv", row | errors), flush=True)


def _rate_factor(step: int, settings: Settings) -> float:
    """Return the learning rate as a share of the full one: a warm-up, then a cosine down to a fiftieth."""
    if step < settings.warm_steps:
        return (step + 1) / settings.warm_steps
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))


def _resume(path: Path, network: Cgm, averaged: Cgm, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    averaged.load_state_dict(state["averaged"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state["spent_s"])


def _save(out: Path, network: Cgm, averaged: Cgm, optimiser: torch.optim.Optimizer, step: int, spent_s: float) -> None:
    state = {"network": network.state_dict(), "averaged": averaged.state_dict(), "optimiser": optimiser.state_dict()}
    partial = out / "checkpoint.partial"
    torch.save(state | {"step": step, "spent_s": spent_s}, partial)
    partial.replace(out / "checkpoint.pt")
    save_file({name: value.contiguous().half() for name, value in averaged.state_dict().items()}, out / "cgm.safetensors")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with objects/ and backgrounds/")
    parser.add_argument("--out", type=Path, default=Path("out/cgm"))
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--producers", type=int, default=1, help="processes that make scenes")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    options = parser.parse_args()
    train(options.data, options.out, Settings(steps=options.steps), hours=options.hours, producers=options.producers)


if __name__ == "__main__":
    main()
