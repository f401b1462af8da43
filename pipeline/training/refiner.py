"""Training of ``cgm``: ``python -m pipeline.training.refiner --data FOLDER``, again to go on from the last checkpoint.

Scenes are made anew all the time, from the tuning part of the material and permissive licences alone, by processes beside the
training. Crops of them wait in a store and are seen a few times each, mirrored and turned. Every few minutes the network, as a
moving average of its weights, is measured on scenes that it is never trained on, and the learning curve gets a row.
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

import cv2
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.models.refiners.cgm import BASE, GUIDED, STEP_PX, WEIGHT, Cgm, look
from pipeline.models.refiners.guided import Guided
from pipeline.models.refiners.refine_tiles import view_of
from pipeline.models.refiners.unknown_region import find_unknown
from pipeline.training.curve import add_row
from pipeline.training.material import Material
from pipeline.training.scenes import FINISHES, KINDS, Scene, make_scene

LICENCES = ("MIT",)
FACTORS = (2, 3, 4, 4, 6, 8)
MEASURED = 10_000_000
"""Seeds from here on are for measuring."""


@dataclass(frozen=True)
class Settings:
    """A recipe of training; kept beside the weights."""

    seed: int = 1
    crop_px: int = 160
    crops_per_scene: int = 6
    batch: int = 16
    store: int = 4000
    """Crops that wait; the oldest are replaced."""
    times: float = 3.0
    """How often a crop is seen at most, on average."""
    steps: int = 12_000
    rate: float = 8e-4
    warm_steps: int = 300
    average: float = 0.999
    l1: float = 0.5
    l2: float = 3.0
    slope: float = 0.5


class Crop(NamedTuple):
    """``seen`` as ``cgm.inputs`` gives it (7, H, W); ``truth`` (H, W), ``weight`` (H, W)."""

    seen: Tensor
    truth: Tensor
    weight: Tensor


def whole(scene: Scene) -> Crop:
    """A scene as the network sees it, all of it."""
    p = torch.from_numpy(scene.base)
    view = view_of(scene.image, p, torch.from_numpy(scene.frame), find_unknown(p[None])[0])
    guided, all_pixels = Guided(), slice(0, len(scene.alpha))
    down, across = (view.axis(all_pixels, dim, guided.halo_cells) for dim in (1, 0))
    seen = look(view, guided.start(view).draw, down, across)
    return Crop(seen, torch.from_numpy(scene.alpha), seen[WEIGHT])


def crops(crop: Crop, settings: Settings, rng: np.random.Generator) -> Iterator[Crop]:
    """Squares of a scene with some band in their middle."""
    side, length = settings.crop_px, crop.truth.shape[-1]
    where = torch.nonzero(crop.weight > 0.5).numpy()
    for _ in range(settings.crops_per_scene if len(where) else 0):
        centre = where[int(rng.integers(len(where)))]
        jitter = rng.integers(-side // 4, side // 4 + 1, 2)
        top, left = np.clip(centre + jitter - side // 2, 0, length - side) // STEP_PX * STEP_PX
        rows, columns = slice(top, top + side), slice(left, left + side)
        yield Crop(crop.seen[:, rows, columns], crop.truth[rows, columns], crop.weight[rows, columns])


def produce(data: Path, settings: Settings, worker: int, first: int, out: multiprocessing.Queue[bytes]) -> None:
    """Crops without end, as half floats in bytes."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    material = Material.read(data, licences=LICENCES)
    for number in itertools.count(first):
        rng = np.random.default_rng([settings.seed, worker, number])
        kind, finish = KINDS[int(rng.integers(len(KINDS)))], FINISHES[int(rng.integers(len(FINISHES)))]
        scene = make_scene(material, int(rng.integers(MEASURED)), kind, finish, int(rng.choice(FACTORS)))
        for crop in crops(whole(scene), settings, rng):
            packed = torch.cat([crop.seen, crop.truth[None], crop.weight[None]]).half().numpy().tobytes()
            while not _taken(out, packed):
                if not (parent := multiprocessing.parent_process()) or not parent.is_alive():
                    return  # killed, a training takes nothing with it


def _taken(out: multiprocessing.Queue[bytes], data: bytes) -> bool:
    try:
        out.put(data, timeout=10)
    except queue.Full:
        return False
    return True


class Store:
    """Crops that wait, filled by producers."""

    def __init__(self, data: Path, settings: Settings, producers: int, first: int) -> None:
        self.settings, self.taken, self.filled = settings, 0, 0
        self.kept = torch.empty((settings.store, 9, settings.crop_px, settings.crop_px), dtype=torch.float16)
        context = multiprocessing.get_context("spawn")
        self.arriving: multiprocessing.Queue[bytes] = context.Queue(64)
        for worker in range(producers):
            context.Process(target=produce, args=(data, settings, worker, first, self.arriving), daemon=True).start()

    def batch(self, rng: np.random.Generator) -> Tensor:
        """(N, 9, H, W) float32: mirrored and turned, never before enough has arrived."""
        settings = self.settings
        while True:
            try:
                enough = self.filled >= 8 * settings.batch and self.taken + settings.batch <= settings.times * self.filled
                self._keep(self.arriving.get(block=not enough))
            except queue.Empty:
                break
            if enough and self.arriving.empty():
                break
        self.taken += settings.batch
        chosen = self.kept[torch.from_numpy(rng.integers(0, min(self.filled, settings.store), settings.batch))].float()
        chosen = torch.rot90(chosen, int(rng.integers(4)), (2, 3))
        return chosen.flip(3) if rng.random() < 0.5 else chosen

    def _keep(self, data: bytes) -> None:
        side = self.settings.crop_px
        self.kept[self.filled % self.settings.store] = torch.frombuffer(bytearray(data), dtype=torch.float16).reshape(
            9, side, side
        )
        self.filled += 1


def loss_of(found: Tensor, truth: Tensor, weight: Tensor, settings: Settings) -> Tensor:
    """In the band: |Δ|, Δ² and the difference of slopes, weighted."""
    off = (found - truth) * weight
    count = weight.sum().clamp_min(1)
    across, down = off.diff(dim=2).abs().sum(), off.diff(dim=1).abs().sum()
    return (settings.l1 * off.abs().sum() + settings.l2 * off.square().sum() + settings.slope * (across + down)) / count


@torch.inference_mode()
def measure(network: Cgm, scenes: Sequence[Crop]) -> dict[str, float]:
    """Mean squared error in the band: of the base enlarged, of guided, of the network, as means over the scenes."""
    rows = []
    for crop in scenes:
        base, guided = crop.seen[BASE], crop.seen[GUIDED]
        drawn = (guided + network(crop.seen[None])[0]).clamp(0, 1)
        mixed = [base + crop.weight * (one - base) for one in (base, guided, drawn)]
        inside = crop.weight > 0
        rows.append([float((one - crop.truth)[inside].square().mean()) for one in mixed])
    return dict(zip(("bilinear", "guided", "cgm"), np.mean(rows, 0).tolist(), strict=True))


def train(data: Path, out: Path, settings: Settings, *, hours: float, producers: int, every_s: float = 240.0) -> None:
    """Until the steps are done or the hours are over; ``out`` gets checkpoint, curve.csv, settings.json, cgm.safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
    torch.manual_seed(settings.seed)
    network = Cgm().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=1e-4)
    step, spent_s = _resume(out / "checkpoint.pt", network, averaged, optimiser)
    material = Material.read(data, licences=LICENCES)
    held = [
        whole(make_scene(material, MEASURED + number, kind, finish, factor))
        for number, (kind, finish, factor) in enumerate(itertools.product(KINDS, FINISHES, (2, 4, 6)))
    ]
    store = Store(data, settings, producers, 1_000_000 * (1 + int(spent_s)))
    rng = np.random.default_rng([settings.seed, step])
    start = told = time.monotonic()
    while step < settings.steps and time.monotonic() - start < 3600 * hours:
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _pace(step, settings)
        batch = store.batch(rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            change = network(batch[:, :7].contiguous(memory_format=torch.channels_last))
        loss = loss_of(batch[:, GUIDED] + change.float(), batch[:, 7], batch[:, 8], settings)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        with torch.no_grad():
            keep = min(settings.average, step / (step + 10))
            for mean, now in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        if time.monotonic() - told > every_s or step == settings.steps:
            told = time.monotonic()
            found = measure(averaged, held)
            _keep_all(out, network, averaged, optimiser, step, spent_s + told - start)
            row = {"step": step, "seconds": round(spent_s + told - start), "crops": store.filled, "loss": float(loss.detach())}
            print(add_row(out / "curve.csv", row | found), flush=True)


def _pace(step: int, settings: Settings) -> float:
    """Share of the rate: warm up, then a cosine down to a fiftieth."""
    if step < settings.warm_steps:
        return (step + 1) / settings.warm_steps
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / settings.steps)))


def _resume(path: Path, network: Cgm, averaged: Cgm, optimiser: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    kept = torch.load(path, weights_only=True)
    network.load_state_dict(kept["network"])
    averaged.load_state_dict(kept["averaged"])
    optimiser.load_state_dict(kept["optimiser"])
    return int(kept["step"]), float(kept["spent_s"])


def _keep_all(out: Path, network: Cgm, averaged: Cgm, optimiser: torch.optim.Optimizer, step: int, spent_s: float) -> None:
    state = {"network": network.state_dict(), "averaged": averaged.state_dict(), "optimiser": optimiser.state_dict()}
    partial = out / "checkpoint.partial"
    torch.save(state | {"step": step, "spent_s": spent_s}, partial)
    partial.replace(out / "checkpoint.pt")
    save_file({name: value.contiguous().half() for name, value in averaged.state_dict().items()}, out / "cgm.safetensors")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder with objects/ and backgrounds/")
    parser.add_argument("--out", type=Path, default=Path("out/cgm"))
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--producers", type=int, default=1, help="processes that make scenes")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    asked = parser.parse_args()
    train(asked.data, asked.out, Settings(steps=asked.steps), hours=asked.hours, producers=asked.producers)


if __name__ == "__main__":
    main()
