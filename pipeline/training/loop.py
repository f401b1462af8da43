"""Train step by step, validate on photos that are never trained on, and write a checkpoint every few minutes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pipeline.errors import ConfigError, PipelineError
from pipeline.log import log
from pipeline.models.mvanet.network import MVANet
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Data, Progress
from pipeline.training.distributed import Processes, use_one_thread
from pipeline.training.initial_weights import load_initial
from pipeline.training.losses import overlap
from pipeline.training.material import Material
from pipeline.training.network import LOSSES, SupervisedMVANet, parameter_groups, variant_of
from pipeline.training.recipe import Stage, TrainRecipe
from pipeline.training.reporting import CURVE, Validation, drop_rows, report
from pipeline.training.samples import Photos, ProductSamples, Sample, Samples, ValidationSamples
from pipeline.training.schedule import difference, rate_factor

CHECKPOINT, STEADY, WEIGHTS = "checkpoint.safetensors", "steady.safetensors", "weights.safetensors"
"""The last checkpoint, the one from before the learning rate decays, and the averaged weights."""

SHEET_PHOTOS = 8

Held = ValidationSamples | ProductSamples


@dataclass(frozen=True)
class TrainOptions:
    """Options that do not change the numbers of a step."""

    output: Path
    hours: float
    validate_every: int | None = None
    """Steps between validations; None for a tenth of all steps, but at most 300."""
    checkpoint_every_s: float = 180.0
    workers: int = 1
    """Processes that make samples, per training process."""


class Trainer:
    """One network in training. It resumes from a checkpoint in the output folder.

    Args:
        photos: To train on.
        held_out: To validate on.
        material: For composites; None for none.
        start: The local file of the recipe's ``start``; None starts with random weights.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        options: TrainOptions,
        photos: Photos,
        held_out: Photos,
        material: Material | None,
        start: Path | None,
        processes: Processes,
    ) -> None:
        self.recipe, self.options, self.photos, self.held_out, self.material = recipe, options, photos, held_out, material
        self.processes, self.device = processes, processes.device
        torch.manual_seed(recipe.seed)
        variant = variant_of(recipe)
        network = MVANet(variant)
        if start is not None and not (options.output / CHECKPOINT).exists():
            log.info(f"{start.name}: {load_initial(network, start, variant)}")
        self.network = SupervisedMVANet(network, recipe).to(self.device).to(memory_format=torch.channels_last)
        self.averaged = {key: value.detach().clone() for key, value in self.network.weights().items()}
        self.optimiser = _optimiser(self.network, recipe)
        self.progress, self.data = Progress(step=0, spent_s=0.0), data_of(photos, held_out, material)
        self._resume()
        if not processes.rank:
            drop_rows(options.output / CURVE, self.progress.step)
        self.parallel = processes.data_parallel(self.network)

    def run(self) -> Progress:
        """Train until all steps are done or the time is over."""
        began, saved = time.monotonic() - self.progress.spent_s, time.monotonic()
        limit_s = self.progress.spent_s + 3600 * self.options.hours
        every = self.options.validate_every or max(1, min(300, self.recipe.steps // 10))
        recent: list[Tensor] = []
        if self._lacks_report():
            self._report(recent)
        self.network.train()
        for batch in self._batches():
            recent.append(self._step(batch))
            step, spent_s = self.progress.step + 1, time.monotonic() - began
            self.progress = Progress(step=step, spent_s=spent_s)
            last = self.processes.broadcast(spent_s > limit_s) or step == self.recipe.steps
            if step == self.recipe.steady_steps:
                self._save(STEADY)
            if last or time.monotonic() - saved > self.options.checkpoint_every_s:
                self._save(CHECKPOINT)
                saved = time.monotonic()
            if last or step % every == 0:
                self._report(recent)
                recent = []
            if last:
                break
        return self.progress

    def _lacks_report(self) -> bool:
        """Return whether the initial weights are to be measured, or an interruption has cost the report of the last step."""
        if not self.progress.step:
            return bool(self.recipe.start)
        return self.progress.step == self.recipe.steps and not (self.options.output / WEIGHTS).exists()

    def _step(self, batch: Sample) -> Tensor:
        """Do one step of the optimiser and return its losses, in the order of ``LOSSES``."""
        factor = rate_factor(self.progress.step, self.recipe)
        for group in self.optimiser.param_groups:
            group["lr"] = group["full_rate"] * factor
        losses: Tensor = self.parallel(*self._prepare(batch))
        self.optimiser.zero_grad(set_to_none=True)
        losses[0].backward()  # type: ignore[no-untyped-call]
        trainable = [one for one in self.network.parameters() if one.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(trainable, self.recipe.clip)
        if not torch.isfinite(norm):
            raise ConfigError(f"the gradient of step {self.progress.step} is not finite; lower rate in the training recipe")
        self.optimiser.step()
        self._average()
        return losses.detach()

    @torch.no_grad()
    def _average(self) -> None:
        """Update the moving average. It is short at first, so that it forgets the initial weights."""
        step = self.progress.step + 1
        decay = min(self.recipe.average, step / (step + 20))
        for key, value in self.network.weights().items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value, 1 - decay)
            else:
                self.averaged[key].copy_(value)

    def _prepare(self, batch: Sample) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N, 3, S, S) normalised frames, (N, 1, S, S) alpha and (N, 1, S, S) edges in [0, 1], on the device."""
        frame, alpha, edge = (plane.to(self.device, non_blocking=True).float() / 255 for plane in batch)
        mean, std = (torch.tensor(one, device=self.device) for one in (self.recipe.mean, self.recipe.std))
        return ((frame - mean) / std).permute(0, 3, 1, 2), alpha[:, None], edge[:, None]

    def _batches(self) -> Iterator[Sample]:
        """Yield this process's part of every batch that is left."""
        first, sample = 0, 0
        for stage in self.recipe.stages:
            done = min(max(self.progress.step - first, 0), stage.steps)
            if done < stage.steps:
                yield from self._stage(stage, sample + done * stage.batch, stage.steps - done)
            first, sample = first + stage.steps, sample + stage.steps * stage.batch

    def _stage(self, stage: Stage, sample: int, steps: int) -> Iterator[Sample]:
        per_process = stage.batch // self.processes.count
        starts = range(sample + self.processes.rank * per_process, sample + steps * stage.batch, stage.batch)
        numbers = [list(range(start, start + per_process)) for start in starts]
        samples = Samples(self.photos, self.material, self.recipe, stage.frame_px)
        for batch in _loader(samples, numbers, self.options.workers):
            if isinstance(batch, PipelineError):
                raise batch
            yield batch

    @torch.no_grad()
    def validate(self) -> tuple[Validation, Tensor]:
        """Measure the averaged network on the photos held out, and on synthetic products if the recipe has any.

        Returns:
            The means, and a sheet (n·S, 3·S, 3) uint8 of the first photos: frame, ground truth, alpha.
        """
        network = MVANet(variant_of(self.recipe)).to(self.device)
        network.load_state_dict(self.averaged)
        self.processes.copy_state(network)
        network.eval()
        side = self.recipe.stages[-1].frame_px
        (mae, iou, dice), sheet = self._measure(network, ValidationSamples(self.held_out, side))
        material = self.material.held_out() if self.material and self.recipe.views.products else None
        if material is None or not (material.objects["train"] and material.photos["train"]):
            return Validation(mae, iou, dice), sheet
        return Validation(mae, iou, dice, self._measure(network, ProductSamples(material, side))[0][2]), sheet

    def _measure(self, network: MVANet, samples: Held) -> tuple[tuple[float, float, float], Tensor]:
        """Return MAE, IoU and Dice of all processes' samples, and this one's sheet. Photos that cannot be read are skipped.

        Raises:
            ConfigError: None can be read.
        """
        numbers = range(self.processes.rank, len(samples), self.processes.count)
        sums = torch.zeros(4, device=self.device)
        sheet: list[Tensor] = []
        for batch in _loader(samples, [[number] for number in numbers], self.options.workers):
            if isinstance(batch, PipelineError):
                log.warning(f"left out of the validation: {batch}")
                continue
            x, alpha, _ = self._prepare(batch)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
                logits = network(x)
            p = logits.float().sigmoid()
            sums += torch.cat([overlap(p, alpha).sum(0), torch.ones(1, device=self.device) * len(x)])
            if len(sheet) < SHEET_PHOTOS:
                maps = (255 * one[0, 0, :, :, None].cpu().expand(-1, -1, 3) for one in (alpha, p))
                sheet.append(torch.cat([batch.frame[0].float(), *maps], 1))
        mae, iou, dice, count = self.processes.sum(sums).tolist()
        if not count:
            raise ConfigError("none of the photos held out for validation can be read; correct what the warnings name")
        # Of few samples, a process of many may have none.
        drawn = torch.cat(sheet).clamp(0, 255).byte() if sheet else torch.empty(0, dtype=torch.uint8)
        return (mae / count, iou / count, dice / count), drawn

    def _report(self, losses: list[Tensor]) -> None:
        """Validate, then write the curve, the sheet and the weights. All processes validate, the first one writes.

        ``losses`` are those of the steps since the last report; there are none before the first step.
        """
        validation, sheet = self.validate()
        self.network.train()
        if self.processes.rank:
            return
        means = dict(zip(LOSSES, torch.stack(losses).mean(0).tolist(), strict=True)) if losses else {}
        step = self.progress.step
        rate = rate_factor(step - 1, self.recipe) * self.recipe.rate if step else 0.0
        report(self.options.output, self.progress, rate, means, validation, sheet)
        weights = {key: value.half() if value.is_floating_point() else value for key, value in self.averaged.items()}
        weights = {key: value for key, value in weights.items() if not key.endswith(".num_batches_tracked")}
        metadata = {"recipe": self.recipe.model_dump_json(), "step": str(step)}
        checkpoint.write(self.options.output / WEIGHTS, weights, metadata)

    def _save(self, name: str) -> None:
        if not self.processes.rank:
            path = self.options.output / name
            checkpoint.save(path, self.recipe, self.progress, self.data, self.network, self.averaged, self.optimiser)

    def _resume(self) -> None:
        """Load a checkpoint of this recipe, or of one that was the same up to the checkpoint's step.

        Raises:
            ConfigError: There is a checkpoint, of another recipe or other photos.
        """
        output, different = self.options.output, None
        for name in (CHECKPOINT, STEADY):
            path = output / name
            if not path.exists():
                continue
            recipe, step, data = checkpoint.peek(path)
            different = difference(recipe, step, self.recipe)
            if different is None:
                if data is not None and (other := data.difference(self.data)):
                    raise ConfigError(f"{output} holds a training {other}, or train into another folder")
                self.progress = checkpoint.load(path, self.network, self.averaged, self.optimiser)
                log.info(f"resuming from step {step} of {self.recipe.steps}")
                return
        if different and (output / CHECKPOINT).exists():
            raise ConfigError(f"{output} holds a training with another recipe: {different}; name another folder, or delete it")


def data_of(photos: Photos, held_out: Photos, material: Material | None) -> Data:
    """Return what the samples of a training depend on besides its recipe."""
    lines = (f"{part}\t{item.item_id}" for part, some in (("train", photos), ("held out", held_out)) for item in some.items)
    return Data(
        items_sha256=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        items=len(photos.items) + len(held_out.items),
        composites=material is not None,
    )


def _optimiser(network: SupervisedMVANet, recipe: TrainRecipe) -> torch.optim.AdamW:
    groups = []
    for name, parameters in parameter_groups(network).items():
        rate = recipe.rate * (recipe.backbone_rate if name == "backbone" else 1)
        for decays in (True, False):  # norms and biases have no weight decay
            some = [one for one in parameters if (one.ndim > 1) == decays]
            groups.append({"params": some, "full_rate": rate, "weight_decay": recipe.weight_decay if decays else 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.rate)


class _Caught(Dataset[Sample | PipelineError]):
    """Samples, and the errors of those that cannot be made: raised in a worker process, they would arrive as a traceback."""

    def __init__(self, samples: Samples | Held) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Sample | PipelineError:
        try:
            return self.samples[number]
        except PipelineError as error:
            return error.with_traceback(None)


def _collated(made: list[Sample | PipelineError]) -> Sample | PipelineError:
    """Return a batch of the samples, or the first error."""
    error = next((one for one in made if isinstance(one, PipelineError)), None)
    return error or cast(Sample, default_collate(made))


def _loader(samples: Samples | Held, numbers: list[list[int]], workers: int) -> DataLoader[Sample | PipelineError]:
    """Return the batches of these sample numbers, in this order, made by worker processes, or an error in place of one."""
    return DataLoader(
        _Caught(samples),
        collate_fn=_collated,
        batch_sampler=numbers,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # a fork would inherit locks of threads that it does not have
        prefetch_factor=4 if workers else None,
        worker_init_fn=use_one_thread if workers else None,
    )
