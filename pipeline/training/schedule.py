"""Say which batch and which learning rate a step has, and whether one training may continue another."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.training.recipe import TrainRecipe


def rate_factor(step: int, recipe: TrainRecipe) -> float:
    """Return the learning rate of a step as a share of the full one.

    It rises linearly, stays constant, and decays as 1 - √t over the last ``decay_steps``. A training with a constant rate can
    be extended (arXiv 2405.18392); only the decay must be repeated.
    """
    if step < recipe.warm_steps:
        return (step + 1) / recipe.warm_steps
    if step < recipe.steady_steps:
        return 1.0
    return 1 - float(np.sqrt((step - recipe.steady_steps) / recipe.decay_steps))


def difference(recipe: TrainRecipe, step: int, wanted: TrainRecipe) -> str | None:
    """Return what keeps the wanted recipe from continuing a training by another one at a step, or None if nothing does.

    The first steps of both must be the same. The text names the field and both values.
    """
    # A recipe may have a copy with another name. A start file may move, its hash may not.
    schedule = {"name", "stages", "decay_steps"} | ({"start"} if recipe.start_sha256 else set())
    theirs, ours = (_flat(one.model_dump(exclude=schedule)) for one in (recipe, wanted))
    for name, value in theirs.items():
        if ours[name] != value:
            return f"{name} is {value} there and {ours[name]} here"
    if step > wanted.steps:
        return f"stages have {wanted.steps} steps here, and {step} are done"
    for at, (one, other) in enumerate(zip(_batch_shapes(recipe, step), _batch_shapes(wanted, step), strict=False)):
        if one != other:
            there, here = (f"{batch} frames of {side} pixels" for side, batch in (one, other))
            return f"stages: step {at} has {there} there and {here} here"
    for at in range(step):
        before, now = rate_factor(at, recipe), rate_factor(at, wanted)
        if before != now:
            return f"stages and decay_steps: step {at} has {before:.3g} of the full learning rate there and {now:.3g} here"
    return None


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a dump by their dotted names: ``views.box``."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _batch_shapes(recipe: TrainRecipe, step: int) -> list[tuple[int, int]]:
    """Return (frame_px, batch) of each step before ``step``."""
    return [(stage.frame_px, stage.batch) for stage in recipe.stages for _ in range(stage.steps)][:step]
