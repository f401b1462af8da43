"""Save and load checkpoints: all state that a training needs to continue with the same numbers, in one safetensors file.

No state of a random generator is stored. A sample is a function of its number and the seed, and the step says which samples
come next.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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


class Data(Stored):
    """Facts that the samples of a training depend on besides its recipe."""

    items_sha256: str
    """SHA-256 of the ids of the photos to train on and of those held out. Photos may move, their ids may not change."""
    items: Count
    composites: bool
    """Whether there is material for composites."""

    def difference(self, here: Data) -> str | None:
        """Return how these data differ from those of a command, and what to change in it; None if they are equal."""
        if self.items_sha256 != here.items_sha256:
            return f"on {self.items} other items, but the manifest has {here.items}; give the manifest of that training"
        if self.composites != here.composites:
            how = "with composites; give --composites" if self.composites else "without composites; leave out --composites"
            return how
        return None


class Peek(NamedTuple):
    """Facts of a checkpoint. ``data`` is None in those of earlier versions."""

    recipe: TrainRecipe
    step: int
    data: Data | None


def save(
    path: Path,
    recipe: TrainRecipe,
    progress: Progress,
    data: Data,
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
        "data": data.model_dump_json(),
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


def peek(path: Path) -> Peek:
    """Return a checkpoint's recipe, step and data without reading its tensors.

    Raises:
        WeightsError: The file is damaged.
        ConfigError: The recipe was written by another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        recipe, step = metadata["recipe"], parse(Progress, metadata["progress"].encode()).step
        data = parse(Data, metadata["data"].encode()) if "data" in metadata else None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a checkpoint, or is damaged ({first_line(error)}); delete it") from error
    try:
        return Peek(TrainRecipe.model_validate_json(recipe), step, data)
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
