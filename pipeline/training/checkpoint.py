"""Save and load checkpoints: all state that a training needs to continue with the same numbers, in one safetensors file.

No state of a random generator is stored. A sample is a function of its number and the seed, and the step says which samples
come next.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.config.sections import Count, Moment, Stored, parse
from pipeline.errors import ConfigError, WeightsError
from pipeline.models.failures import first_line
from pipeline.training.recipe import TrainRecipe

ADAMW_STATE = ("exp_avg", "exp_avg_sq", "step")
"""AdamW's state per parameter."""


class Progress(Stored):
    """Steps done, and seconds spent on them."""

    step: Count
    spent_s: Moment


def save(
    path: Path,
    recipe: TrainRecipe,
    progress: Progress,
    network: nn.Module,
    averaged: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint atomically."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"averaged.{key}": value for key, value in averaged.items()}
    for name, parameter in network.named_parameters():
        if parameter in optimiser.state:
            tensors |= {f"optimiser.{name}.{key}": optimiser.state[parameter][key] for key in ADAMW_STATE}
    metadata = {
        "recipe": recipe.model_dump_json(),
        "progress": Progress(step=progress.step, spent_s=round(progress.spent_s, 1)).model_dump_json(),
    }
    write(path, tensors, metadata)


def load(path: Path, network: nn.Module, averaged: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> Progress:
    """Load a checkpoint into a network, its averaged weights and an optimiser, in place.

    Raises:
        WeightsError: The file is damaged, or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it has no other way to list them)
            progress = parse(Progress, file.metadata()["progress"].encode())
        network.load_state_dict(_below(tensors, "network."), strict=True)
        loaded = _below(tensors, "averaged.")
        for key, value in averaged.items():
            value.copy_(loaded[key])
        for name, parameter in network.named_parameters():
            state = _below(tensors, f"optimiser.{name}.")
            if state:
                moved = {key: state[key].to(parameter.device) for key in ADAMW_STATE}
                if any(moved[key].shape != parameter.shape for key in ADAMW_STATE[:2]):
                    raise ValueError(f"the optimiser's state of {name} has another shape")
                moved["step"] = state["step"].cpu()  # AdamW keeps the step on the CPU
                optimiser.state[parameter].update(moved)
    except (SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise WeightsError(f"cannot resume from {path} ({reason}); delete it, or train into another folder") from error
    return progress


def peek(path: Path) -> tuple[TrainRecipe, int]:
    """Return a checkpoint's recipe and step without reading its tensors.

    Raises:
        WeightsError: The file is damaged.
        ConfigError: The recipe was written by another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        recipe, step = metadata["recipe"], parse(Progress, metadata["progress"].encode()).step
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a checkpoint, or is damaged ({first_line(error)}); delete it") from error
    try:
        return TrainRecipe.model_validate_json(recipe), step
    except ValueError as error:
        raise ConfigError(f"{path} was written by another version of this package; train into another folder") from error


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    partial = path.with_suffix(".partial")
    save_file({key: value.detach().contiguous().cpu() for key, value in tensors.items()}, partial, metadata)
    partial.replace(path)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose keys have a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
