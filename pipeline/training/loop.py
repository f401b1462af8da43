"""The training itself: step after step, measured on photos that it never learns from, and kept every few minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.errors import ConfigError
from pipeline.log import log
from pipeline.models.mvanet.network import MVANet
from pipeline.training import checkpoint as keep
from pipeline.training.checkpoint import Progress
from pipeline.training.distributed import Processes
from pipeline.training.initial_weights import start_from
from pipeline.training.losses import overlap
from pipeline.training.material import Material
from pipeline.training.network import PARTS, Trained, parameter_groups, variant_of
from pipeline.training.recipe import Stage, TrainRecipe
from pipeline.training.reporting import Measured, tell
from pipeline.training.samples import Held, Photos, Sample, Samples

CHECKPOINT, STEADY, WEIGHTS = "checkpoint.safetensors", "steady.safetensors", "weights.safetensors"


@dataclass(frozen=True)
class Course:
    """Where a training reads and writes, and how long; none of it changes the numbers of a step."""

    out: Path
    hours: float
    validate_every: int = 300
    """Steps."""
    keep_every_s: float = 180.0
    workers: int = 1
    """Processes that make samples, beside each that trains."""


class Training:
    """A network on its way from one step to the next.

    Args:
        photos: to learn from; ``held``: to measure on.
        material: of composites; None for none.
        start: the file that the recipe's ``start`` names, on this machine.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        course: Course,
        photos: Photos,
        held: Photos,
        material: Material | None,
        start: Path | None,
        processes: Processes,
    ) -> None:
        self.recipe, self.course, self.photos, self.held, self.material = recipe, course, photos, held, material
        self.processes, self.device = processes, processes.device
        torch.manual_seed(recipe.seed)
        variant = variant_of(recipe)
        network = MVANet(variant)
        if start is not None and not (course.out / CHECKPOINT).exists():
            log.info(f"{start.name}: {start_from(network, start, variant)}")
        self.trained = Trained(network, recipe).to(self.device).to(memory_format=torch.channels_last)
        self.averaged = {key: value.detach().clone() for key, value in self.trained.weights().items()}
        self.optimiser = _optimiser(self.trained, recipe)
        self.progress = Progress(0, 0.0)
        self._resume()
        self.stepping = processes.share(self.trained)

    def run(self) -> Progress:
        """Until the recipe's steps are done or the time is over. Give the same again to go on."""
        began, kept = time.monotonic() - self.progress.spent_s, time.monotonic()
        limit_s = self.progress.spent_s + 3600 * self.course.hours
        recent: list[Tensor] = []
        self.trained.train()
        for batch in self._batches():
            recent.append(self._step(batch))
            step, spent_s = self.progress.step + 1, time.monotonic() - began
            self.progress = Progress(step, spent_s)
            over = self.processes.agree(spent_s > limit_s) or step == self.recipe.steps
            if step == self.recipe.steady_steps:
                self._keep(STEADY)
            if over or step % self.course.validate_every == 0:
                self._tell(torch.stack(recent))
                recent = []
            if over or time.monotonic() - kept > self.course.keep_every_s:
                self._keep(CHECKPOINT)
                kept = time.monotonic()
            if over:
                break
        return self.progress

    def _step(self, batch: Sample) -> Tensor:
        """One step of the optimiser: losses as ``PARTS``."""
        rate = pace(self.progress.step, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["full_rate"] * rate
        losses: Tensor = self.stepping(*self._prepared(batch))
        self.optimiser.zero_grad(set_to_none=True)
        losses[0].backward()  # type: ignore[no-untyped-call]
        learning = [one for one in self.trained.parameters() if one.requires_grad]
        length = torch.nn.utils.clip_grad_norm_(learning, self.recipe.clip)
        if not torch.isfinite(length):
            raise ConfigError(f"the gradient of step {self.progress.step} isn't finite; lower the recipe's rate")
        self.optimiser.step()
        self._average()
        return losses.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """A young average is short: it begins with the first steps' numbers and must forget them."""
        step = self.progress.step + 1
        share = min(self.recipe.average, step / (step + 20))
        for key, value in self.trained.weights().items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value, 1 - share)
            else:
                self.averaged[key].copy_(value)

    def _prepared(self, batch: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, S, S) normalised, (N, 1, S, S) alpha and (N, 1, S, S) edges in [0, 1], on the device."""
        frame, alpha, edge = (plane.to(self.device, non_blocking=True).float() / 255 for plane in batch)
        mean, std = (torch.tensor(one, device=self.device) for one in (self.recipe.mean, self.recipe.std))
        return ((frame - mean) / std).permute(0, 3, 1, 2), alpha[:, None], edge[:, None]

    def _batches(self) -> Iterator[Sample]:
        """This process's share of every batch that is still to come."""
        first, sample = 0, 0
        for stage in self.recipe.stages:
            done = min(max(self.progress.step - first, 0), stage.steps)
            if done < stage.steps:
                yield from self._stage(stage, sample + done * stage.batch, stage.steps - done)
            first, sample = first + stage.steps, sample + stage.steps * stage.batch

    def _stage(self, stage: Stage, sample: int, steps: int) -> Iterator[Sample]:
        mine = stage.batch // self.processes.count
        starts = range(sample + self.processes.rank * mine, sample + steps * stage.batch, stage.batch)
        numbers = [list(range(start, start + mine)) for start in starts]
        samples = Samples(self.photos, self.material, self.recipe, stage.frame_px)
        yield from _loader(samples, numbers, self.course.workers)

    @torch.no_grad()
    def measure(self) -> tuple[Measured, Tensor]:
        """The averaged network on the photos held out, and what it makes of the first of them."""
        network = MVANet(variant_of(self.recipe)).to(self.device)
        network.load_state_dict(self.averaged)
        self.processes.follow(network)
        network.eval()
        held = Held(self.held, self.recipe.stages[-1].frame_px)
        mine = range(self.processes.rank, len(held), self.processes.count)
        sums = torch.zeros(4, device=self.device)
        shown: list[Tensor] = []
        for batch in _loader(held, [[number] for number in mine], self.course.workers):
            x, alpha, _ = self._prepared(batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                logits = network(x)
            p = logits.float().sigmoid()
            sums += torch.cat([overlap(p, alpha).sum(0), torch.ones(1, device=self.device) * len(x)])
            if len(shown) < 8:
                shown.append(
                    torch.cat(
                        [batch.frame[0].float(), *(255 * one[0, 0, :, :, None].cpu().expand(-1, -1, 3) for one in (alpha, p))],
                        1,
                    )
                )
        mae, iou, dice, count = self.processes.summed(sums).tolist()
        return Measured(mae / count, iou / count, dice / count), torch.cat(shown).clamp(0, 255).byte()

    def _tell(self, losses: Tensor) -> None:
        measured, sheet = self.measure()
        self.trained.train()
        if self.processes.rank:
            return
        means = dict(zip(PARTS, losses.mean(0).tolist(), strict=True))
        tell(
            self.course.out, self.progress, pace(self.progress.step - 1, self.recipe) * self.recipe.rate, means, measured, sheet
        )
        weights = {key: value.half() if value.is_floating_point() else value for key, value in self.averaged.items()}
        weights = {key: value for key, value in weights.items() if not key.endswith(".num_batches_tracked")}
        facts = {"recipe": self.recipe.model_dump_json(), "step": str(self.progress.step)}
        keep.write(self.course.out / WEIGHTS, weights, facts)

    def _keep(self, name: str) -> None:
        if not self.processes.rank:
            keep.save(self.course.out / name, self.recipe, self.progress, self.trained, self.averaged, self.optimiser)

    def _resume(self) -> None:
        """Go on from a checkpoint of this recipe, or of one that was the same up to the checkpoint's step."""
        for name in (CHECKPOINT, STEADY):
            path = self.course.out / name
            if path.exists():
                recipe, step = keep.peek(path)
                if leads_to(recipe, step, self.recipe):
                    self.progress = keep.load(path, self.trained, self.averaged, self.optimiser)
                    log.info(f"goes on from step {step} of {self.recipe.steps}")
                    return
        if (self.course.out / CHECKPOINT).exists():
            raise ConfigError(f"{self.course.out} has a training by another recipe; name another folder, or delete it")


def leads_to(recipe: TrainRecipe, step: int, asked: TrainRecipe) -> bool:
    """Whether training by one recipe up to a step is also the beginning of training by another."""
    plan = {"stages", "decay_steps"} | ({"start"} if recipe.start_sha256 else set())  # the same file may lie elsewhere
    same = recipe.model_dump(exclude=plan) == asked.model_dump(exclude=plan)
    both = zip(_frames(recipe, step), _frames(asked, step), strict=False)
    return (
        same
        and step <= asked.steps
        and all(pace(at, recipe) == pace(at, asked) for at in range(step))
        and all(a == b for a, b in both)
    )


def _frames(recipe: TrainRecipe, step: int) -> list[tuple[int, int]]:
    return [(stage.frame_px, stage.batch) for stage in recipe.stages for _ in range(stage.steps)][:step]


def pace(step: int, recipe: TrainRecipe) -> float:
    """Share of the full rate at a step: it rises, stays, and in the last ``decay_steps`` falls to nothing, as 1 - √ of the way.

    A constant rate can be prolonged as long as one likes (arXiv 2405.18392); only the fall must be gone through again.
    """
    if step < recipe.warm_steps:
        return (step + 1) / recipe.warm_steps
    if step < recipe.steady_steps:
        return 1.0
    return 1 - float(np.sqrt((step - recipe.steady_steps) / recipe.decay_steps))


def _optimiser(trained: Trained, recipe: TrainRecipe) -> torch.optim.AdamW:
    groups = []
    for name, parameters in parameter_groups(trained).items():
        rate = recipe.rate * (recipe.backbone_rate if name == "backbone" else 1)
        for decays in (True, False):  # norms and biases don't
            some = [one for one in parameters if (one.ndim > 1) == decays]
            groups.append({"params": some, "full_rate": rate, "weight_decay": recipe.weight_decay if decays else 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.rate)


def _loader(samples: Samples | Held, numbers: list[list[int]], workers: int) -> DataLoader[Sample]:
    """Batches of these samples, in this order, made by other processes."""
    context = "spawn" if workers else None  # a fork would inherit threads that aren't there
    return DataLoader(
        samples,
        batch_sampler=numbers,
        num_workers=workers,
        multiprocessing_context=context,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
