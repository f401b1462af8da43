"""Training of the estimator: ``python -m pipeline.training.estimator --photos FOLDER``; what was already made is used again.

The backbone stays as ImageNet left it, so its features are computed once and what follows is trained on them in minutes. Some
maps are spoilt on purpose, by turning them inside out, by taking another photo's or by cutting part of the object away: what no
model does often enough to learn from, and a page should still show first.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its usual name)

from pipeline.errors import ConfigError
from pipeline.models.estimator import Estimator, said_together
from pipeline.models.tensors import COUNTS, fill, matched
from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, auroc
from pipeline.training.estimator_data import Judged, judge_photos

HELD_OUT_OF = 20
"""One photo in so many is measured on."""


@dataclass(frozen=True)
class Settings:
    """A recipe of training."""

    seed: int = 1
    epochs: int = 16
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.05
    warm_steps: int = 50
    inverted: float = 0.04
    exchanged: float = 0.04
    halved: float = 0.25


class Store:
    """Features of all photos and of their mirror images, float16, with the maps and what they were worth."""

    def __init__(self, judged: Judged, network: Estimator, kept: Path) -> None:
        self.maps, self.dice = judged.maps, torch.from_numpy(judged.dice)
        if not kept.exists():
            both = [_features(network, judged.frames, mirrored=mirrored) for mirrored in (False, True)]
            save_file(
                {f"{name}{side}": one for side, pair in enumerate(both) for name, one in zip("fc", pair, strict=True)}, kept
            )
        self.features = load_file(kept)

    def batch(self, rows: npt.NDArray[np.int64], *, mirrored: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The backbone's two maps, the model's (B, 1, s, s), and the Dice."""
        p = torch.from_numpy(self.maps[rows])[:, None].float() / 255
        fine, coarse = (self.features[f"{name}{int(mirrored)}"][rows].float() for name in "fc")
        return fine, coarse, p.flip(3) if mirrored else p, self.dice[rows]


@torch.inference_mode()
def _features(network: Estimator, frames: npt.NDArray[np.uint8], *, mirrored: bool) -> tuple[Tensor, Tensor]:
    found = []
    for start in range(0, len(frames), 64):
        photo = torch.from_numpy(frames[start : start + 64]).permute(0, 3, 1, 2).float() / 127.5 - 1
        found.append([one.half().contiguous() for one in network.backbone(photo.flip(3) if mirrored else photo)])
    fine, coarse = (torch.cat(one) for one in zip(*found, strict=True))
    return fine, coarse


def spoilt(p: Tensor, dice: Tensor, settings: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Some of the maps (B, 1, s, s) are made bad, and what they are worth is put right (B,)."""
    which = torch.rand(len(p), generator=generator)
    inverted = which < settings.inverted
    exchanged = ~inverted & (which < settings.inverted + settings.exchanged)
    halved = (which > 1 - settings.halved) & (dice >= FAILED_BELOW)
    across = torch.linspace(0, 1, p.shape[-1])
    turn = 2 * torch.pi * torch.rand(len(p), 1, 1, generator=generator)
    along = (across[None, None] * turn.cos() + across[None, :, None] * turn.sin())[:, None]  # (B, 1, s, s)
    weight = p / p.sum((2, 3), keepdim=True).clamp_min(1e-6)
    middle = (along * weight).sum((2, 3), keepdim=True)  # the line goes through the object's middle, or near
    spread = ((along - middle) ** 2 * weight).sum((2, 3), keepdim=True).sqrt()
    kept = along > middle + spread * (torch.rand(len(p), 1, 1, 1, generator=generator) * 1.6 - 0.8)
    part = torch.where(kept, p, 0 * p)
    overlap = 2 * (part > 0.5).sum((1, 2, 3)) / ((part > 0.5).sum((1, 2, 3)) + (p > 0.5).sum((1, 2, 3))).clamp_min(1)
    spoiled = torch.where(inverted[:, None, None, None], 1 - p, p)
    spoiled = torch.where(exchanged[:, None, None, None], p.roll(1, 0), spoiled)
    spoiled = torch.where(halved[:, None, None, None], part, spoiled)
    worth = torch.where(inverted, dice.clamp_max(0.05), torch.where(exchanged, dice.clamp_max(0.3), dice))
    return spoiled, torch.where(halved, dice * overlap, worth)


def loss_of(said: Tensor, dice: Tensor) -> Tensor:
    """Cross entropy of the Dice itself and of the two thresholds that matter."""
    wanted = torch.stack([dice, (dice >= FAILED_BELOW).float(), (dice >= GOOD_FROM).float()], 1)
    return F.binary_cross_entropy_with_logits(said, wanted)


def train(network: Estimator, store: Store, chosen: npt.NDArray[np.int64], settings: Settings) -> list[float]:
    """All but the backbone, on these rows; the mean loss of each epoch."""
    generator, rng = torch.Generator().manual_seed(settings.seed), np.random.default_rng(settings.seed)
    trained = [weight for name, weight in network.named_parameters() if not name.startswith("backbone.")]
    optimiser = torch.optim.AdamW(trained, settings.rate, weight_decay=settings.decay)
    batch = min(settings.batch, len(chosen))
    total = settings.epochs * (len(chosen) // batch)

    def share(step: int) -> float:
        return min(1, (step + 1) / settings.warm_steps) * 0.5 * (1 + float(np.cos(np.pi * step / total)))

    plan = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    network.train()
    network.backbone.eval()
    curve = []
    for _ in range(settings.epochs):
        order, losses = rng.permutation(chosen), []
        for start in range(0, len(order) - batch + 1, batch):
            fine, coarse, p, dice = store.batch(order[start : start + batch], mirrored=bool(rng.random() < 0.5))
            p, dice = spoilt(p, dice, settings, generator)
            loss = loss_of(network.judge(fine, coarse, p), dice)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            plan.step()
            losses.append(float(loss.detach()))
        curve.append(float(np.mean(losses)))
        print(f"epoch {len(curve)} of {settings.epochs}: loss {curve[-1]:.4f}", flush=True)
    network.eval()
    return curve


@torch.inference_mode()
def measured(network: Estimator, store: Store, rows: npt.NDArray[np.int64]) -> float:
    """AUROC for failures."""
    said = [
        said_together(network.judge(*store.batch(some, mirrored=False)[:3]))
        for some in np.array_split(rows, len(rows) // 64 + 1)
    ]
    return auroc(-torch.cat(said).double().numpy(), store.dice.numpy()[rows] < FAILED_BELOW)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="a folder of Parquet files with image and mask bytes")
    parser.add_argument("--backbone", type=Path, required=True, help="ImageNet weights of tf_efficientnet_lite0, safetensors")
    parser.add_argument("--start", type=Path, help="weights of an estimator, to go on from; absent, from nothing")
    parser.add_argument("--preset", default="u2netp", help="whose maps are judged")
    parser.add_argument("--times", type=int, default=2, help="each photo, each time otherwise")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/estimator"))
    asked = parser.parse_args(arguments)
    if not list(asked.photos.glob("*.parquet")):
        raise ConfigError(f"{asked.photos} has no Parquet files; name a folder of photos with true masks")
    settings = Settings()
    torch.manual_seed(settings.seed)
    judged = judge_photos(asked.photos, asked.preset, asked.out / "judged", times=asked.times, processes=asked.processes)
    failed = float((judged.dice < FAILED_BELOW).mean())
    print(f"{len(judged.dice)} maps, {failed:.1%} of them failures", flush=True)
    network = Estimator()
    if asked.start:
        fill(network, matched(asked.start, network, "the estimator's", "give its weights"), asked.start, torch.float32)
    _take_backbone(network, asked.backbone)
    store = Store(judged, network.eval(), asked.out / "features.safetensors")
    apart = judged.photos % HELD_OUT_OF == 0
    curve = train(network, store, np.flatnonzero(~apart), settings)
    said = measured(network, store, np.flatnonzero(apart))
    print(f"AUROC for failures on {int(apart.sum())} maps of photos held out: {said:.4f}")
    state = {key: slot.half().contiguous() for key, slot in network.state_dict().items() if not key.endswith(COUNTS)}
    save_file(state, asked.out / "estimator.safetensors")
    with (asked.out / "estimator.curve.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("epoch", "loss"), *enumerate(curve, 1)])


def _take_backbone(network: Estimator, path: Path) -> None:
    """The first stages out of a whole network's file.

    Raises:
        ConfigError: it lacks some of them.
    """
    tensors = load_file(path)
    wanted = [key for key in network.backbone.state_dict() if not key.endswith(COUNTS)]
    lacking = [key for key in wanted if key not in tensors]
    if lacking:
        raise ConfigError(f"{path} has no {lacking[0]}; give the ImageNet weights of timm's tf_efficientnet_lite0")
    network.backbone.load_state_dict({key: tensors[key] for key in wanted}, strict=False)


if __name__ == "__main__":
    main()
