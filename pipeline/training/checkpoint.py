"""Checkpoints: everything that a training needs to go on to the same numbers, in one safetensors file.

Samples are numbered and weights are a function of the samples, so there is no state of a random generator to keep: the step
says which samples come next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import WeightsError
from pipeline.training.recipe import TrainRecipe, read_training

MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""Of AdamW, a parameter."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    step: int
    spent_s: float


def save(
    path: Path,
    recipe: TrainRecipe,
    progress: Progress,
    network: nn.Module,
    averaged: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"averaged.{key}": value for key, value in averaged.items()}
    for name, parameter in network.named_parameters():
        if parameter in optimiser.state:
            tensors |= {f"optimiser.{name}.{moment}": optimiser.state[parameter][moment] for moment in MOMENTS}
    facts = {
        "recipe": recipe.model_dump_json(),
        "progress": json.dumps({"step": progress.step, "spent_s": round(progress.spent_s, 1)}),
    }
    write(path, tensors, facts)


def load(path: Path, network: nn.Module, averaged: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> Progress:
    """Take a checkpoint's state over, in place.

    Raises:
        WeightsError: it is damaged, or of another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it has no other way to list them)
            told = json.loads(file.metadata()["progress"])
        network.load_state_dict(_part(tensors, "network."), strict=True)
        kept = _part(tensors, "averaged.")
        for key, value in averaged.items():
            value.copy_(kept[key])
        for name, parameter in network.named_parameters():
            found = _part(tensors, f"optimiser.{name}.")
            if found:
                moments = {moment: found[moment].to(parameter.device) for moment in MOMENTS}
                moments["step"] = found["step"].cpu()  # as AdamW has it
                optimiser.state[parameter].update(moments)
        return Progress(int(told["step"]), float(told["spent_s"]))
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise WeightsError(f"{path} can't be gone on from ({reason}); train into another folder, or delete it") from error


def peek(path: Path) -> tuple[TrainRecipe, int]:
    """A checkpoint's recipe and step.

    Raises:
        WeightsError: it is damaged.
        ConfigError: its recipe is another version's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
        return read_training(facts["recipe"], path), int(json.loads(facts["progress"])["step"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no checkpoint, or damaged ({error}); delete it") from error


def write(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str]) -> None:
    """A safetensors file, whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, partial, facts)
    partial.replace(path)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
