"""Train the estimator: ``python -m pipeline.training.estimator --photos FOLDER``. Intermediate results are reused.

The backbone keeps its ImageNet weights, so its features are computed once and the layers after it are trained on them within
minutes. Some maps are corrupted on purpose: inverted, exchanged for another photo's, or with part of the object cut away.
Models make such errors too rarely to learn from, and they must still get a low score.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
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
from pipeline.models.estimator import Estimator, combine_logits
from pipeline.models.tensors import BATCH_COUNTS, load_tensors, open_matching
from pipeline.quality.ranking import FAILED_BELOW, GOOD_FROM, auroc
from pipeline.training.estimator_data import ScoredMaps, score_photos
from pipeline.training.estimator_products import score_products

HELD_OUT_OF = 20
"""One photo in so many is for validation."""


@dataclass(frozen=True)
class Settings:
    """Settings that change the weights. The last three are shares of maps that are corrupted."""

    seed: int = 1
    epochs: int = 16
    batch: int = 64
    rate: float = 1e-3
    decay: float = 0.05
    warm_steps: int = 50
    inverted: float = 0.04
    exchanged: float = 0.04
    halved: float = 0.25


class FeatureStore:
    """Backbone features of all photos and of their mirror images, float16, with the maps and their Dice.

    The features are kept in ``folder``, in a file that is named by a hash of the photos' frames and the backbone's weights.
    """

    def __init__(self, scored: ScoredMaps, network: Estimator, folder: Path) -> None:
        self.maps, self.dice = scored.maps, torch.from_numpy(scored.dice)
        cache = folder / f"features-{_features_key(scored.frames, network)}.safetensors"
        if not cache.exists():
            partial = cache.with_suffix(".partial")
            both = [_features(network, scored.frames, mirrored=mirrored) for mirrored in (False, True)]
            save_file(
                {f"{name}{side}": one for side, pair in enumerate(both) for name, one in zip("fc", pair, strict=True)}, partial
            )
            partial.replace(cache)
        self.features = load_file(cache)

    def batch(self, rows: npt.NDArray[np.int64], *, mirrored: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the backbone's fine and coarse features, the model's map (B, 1, s, s), and the Dice (B,)."""
        p = torch.from_numpy(self.maps[rows])[:, None].float() / 255
        fine, coarse = (self.features[f"{name}{int(mirrored)}"][rows].float() for name in "fc")
        return fine, coarse, p.flip(3) if mirrored else p, self.dice[rows]


def _features_key(frames: npt.NDArray[np.uint8], network: Estimator) -> str:
    """Return 16 hexadecimal digits that name the features of these frames."""
    digest = hashlib.sha256(repr(frames.shape).encode())
    digest.update(np.ascontiguousarray(frames).data)
    for key, value in network.backbone.state_dict().items():
        if not key.endswith(BATCH_COUNTS):
            digest.update(key.encode())
            digest.update(value.contiguous().numpy().data)
    return digest.hexdigest()[:16]


@torch.inference_mode()
def _features(network: Estimator, frames: npt.NDArray[np.uint8], *, mirrored: bool) -> tuple[Tensor, Tensor]:
    batches = []
    for start in range(0, len(frames), 64):
        photo = torch.from_numpy(frames[start : start + 64]).permute(0, 3, 1, 2).float() / 127.5 - 1
        batches.append([one.half().contiguous() for one in network.backbone(photo.flip(3) if mirrored else photo)])
    fine, coarse = (torch.cat(one) for one in zip(*batches, strict=True))
    return fine, coarse


def corrupt_maps(p: Tensor, dice: Tensor, settings: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Corrupt some of the maps (B, 1, s, s), and lower their Dice (B,) accordingly."""
    which = torch.rand(len(p), generator=generator)
    inverted = which < settings.inverted
    exchanged = ~inverted & (which < settings.inverted + settings.exchanged)
    halved = (which > 1 - settings.halved) & (dice >= FAILED_BELOW)
    across = torch.linspace(0, 1, p.shape[-1])
    turn = 2 * torch.pi * torch.rand(len(p), 1, 1, generator=generator)
    along = (across[None, None] * turn.cos() + across[None, :, None] * turn.sin())[:, None]  # (B, 1, s, s)
    weight = p / p.sum((2, 3), keepdim=True).clamp_min(1e-6)
    middle = (along * weight).sum((2, 3), keepdim=True)  # the cut goes through the object's middle, or near it
    spread = ((along - middle) ** 2 * weight).sum((2, 3), keepdim=True).sqrt()
    side = along > middle + spread * (torch.rand(len(p), 1, 1, 1, generator=generator) * 1.6 - 0.8)
    part = torch.where(side, p, 0 * p)
    overlap = 2 * (part > 0.5).sum((1, 2, 3)) / ((part > 0.5).sum((1, 2, 3)) + (p > 0.5).sum((1, 2, 3))).clamp_min(1)
    corrupted = torch.where(inverted[:, None, None, None], 1 - p, p)
    corrupted = torch.where(exchanged[:, None, None, None], p.roll(1, 0), corrupted)
    corrupted = torch.where(halved[:, None, None, None], part, corrupted)
    lowered = torch.where(inverted, dice.clamp_max(0.05), torch.where(exchanged, dice.clamp_max(0.3), dice))
    return corrupted, torch.where(halved, dice * overlap, lowered)


def loss_of(logits: Tensor, dice: Tensor) -> Tensor:
    """Return the cross-entropy of the Dice itself and of the two thresholds that matter."""
    targets = torch.stack([dice, (dice >= FAILED_BELOW).float(), (dice >= GOOD_FROM).float()], 1)
    return F.binary_cross_entropy_with_logits(logits, targets)


def train(network: Estimator, store: FeatureStore, rows: npt.NDArray[np.int64], settings: Settings) -> list[float]:
    """Train everything but the backbone on these rows, and return the mean loss of each epoch."""
    generator, rng = torch.Generator().manual_seed(settings.seed), np.random.default_rng(settings.seed)
    trainable = [weight for name, weight in network.named_parameters() if not name.startswith("backbone.")]
    optimiser = torch.optim.AdamW(trainable, settings.rate, weight_decay=settings.decay)
    batch = min(settings.batch, len(rows))
    total = settings.epochs * (len(rows) // batch)

    def rate_factor(step: int) -> float:
        return min(1, (step + 1) / settings.warm_steps) * 0.5 * (1 + float(np.cos(np.pi * step / total)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate_factor)
    network.train()
    network.backbone.eval()
    curve = []
    for _ in range(settings.epochs):
        order, losses = rng.permutation(rows), []
        for start in range(0, len(order) - batch + 1, batch):
            fine, coarse, p, dice = store.batch(order[start : start + batch], mirrored=bool(rng.random() < 0.5))
            p, dice = corrupt_maps(p, dice, settings, generator)
            loss = loss_of(network.predict(fine, coarse, p), dice)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        curve.append(float(np.mean(losses)))
        print(f"epoch {len(curve)} of {settings.epochs}: loss {curve[-1]:.4f}", flush=True)
    network.eval()
    return curve


@torch.inference_mode()
def failure_auroc(network: Estimator, store: FeatureStore, rows: npt.NDArray[np.int64]) -> float:
    """Return the AUROC for failures."""
    batches = np.array_split(rows, len(rows) // 64 + 1)
    predicted = [combine_logits(network.predict(*store.batch(some, mirrored=False)[:3])) for some in batches]
    return auroc(-torch.cat(predicted).double().numpy(), store.dice.numpy()[rows] < FAILED_BELOW)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder of Parquet files with image and mask bytes")
    parser.add_argument("--products", type=Path, help="folder with objects/ and backgrounds/ for synthetic products")
    parser.add_argument("--backbone", type=Path, required=True, help="ImageNet weights of tf_efficientnet_lite0, safetensors")
    parser.add_argument("--start", type=Path, help="initial weights of the estimator; absent: random")
    parser.add_argument("--times", type=int, default=2, help="variants per photo")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/estimator"))
    options = parser.parse_args(arguments)
    if not list(options.photos.glob("*.parquet")):
        raise ConfigError(f"{options.photos} has no Parquet files; name a folder of Parquet files with image and mask bytes")
    settings = Settings()
    torch.manual_seed(settings.seed)
    scored = score_photos(options.photos, options.out / "maps", times=options.times, processes=options.processes)
    if options.products:
        scored = scored.with_others(score_products(options.products, options.out / "maps", processes=options.processes))
    failed = float((scored.dice < FAILED_BELOW).mean())
    print(f"{len(scored.dice)} maps, {failed:.1%} of them failures", flush=True)
    network = Estimator()
    if options.start:
        tensors = open_matching(options.start, network, "the estimator", "give its weights")
        load_tensors(network, tensors, options.start, torch.float32)
    _load_backbone(network, options.backbone)
    store = FeatureStore(scored, network.eval(), options.out)
    held_out = scored.photos % HELD_OUT_OF == 0
    curve = train(network, store, np.flatnonzero(~held_out), settings)
    score = failure_auroc(network, store, np.flatnonzero(held_out))
    print(f"AUROC for failures on {int(held_out.sum())} maps of photos held out: {score:.4f}")
    state = {key: slot.half().contiguous() for key, slot in network.state_dict().items() if not key.endswith(BATCH_COUNTS)}
    save_file(state, options.out / "estimator.safetensors")
    with (options.out / "estimator.curve.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("epoch", "loss"), *enumerate(curve, 1)])


def _load_backbone(network: Estimator, path: Path) -> None:
    """Load the backbone's layers from a classification network's file.

    Raises:
        ConfigError: The file lacks some of them.
    """
    tensors = load_file(path)
    expected = [key for key in network.backbone.state_dict() if not key.endswith(BATCH_COUNTS)]
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise ConfigError(f"{path} has no {missing[0]}; give the ImageNet weights of timm's tf_efficientnet_lite0")
    network.backbone.load_state_dict({key: tensors[key] for key in expected}, strict=False)


if __name__ == "__main__":
    main()
